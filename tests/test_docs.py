"""The documents' Python blocks that stand on their own run."""

import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)


def test_the_train_step_by_hand_learns(capsys):
    [code] = blocks("train_step.md")
    scope = {}
    exec(code, scope)
    loss, accuracy = re.fullmatch(r"loss (\S+), accuracy (\S+)%\n", capsys.readouterr().out).groups()
    assert float(loss) < 0.6 and float(accuracy) > 75


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_lead_somewhere(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (DOCS / target).exists(), target
