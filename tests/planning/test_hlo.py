"""Collectives of hand-written programs, their bytes worked out by hand."""

import pytest

from vit_jax.planning import hlo, traffic

PROGRAM = """HloModule step, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[16,4])) -> (s32[], bf16[16,4]) {
  %p = (s32[]{:T(128)}, bf16[16,4]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = bf16[16,4]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %ag = bf16[64,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (s32[], bf16[16,4]) tuple(%x, %x)
}

%condition (p: (s32[], bf16[16,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %p = (s32[], bf16[16,4]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0), sharding={devices=[8,1]<=[8]}
  %ar = (f32[10]{0}, f32[6]{0}) all-reduce(%x, %x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%sum
  %w = (s32[], bf16[16,4]{1,0}) while(%t0), condition=%condition, body=%body
  ROOT %r = f32[8,128]{1,0} copy(%x)
}
"""


def test_a_program_with_a_loop():
    reduce, gather = hlo.collectives(PROGRAM, 8)
    # Sixteen float32 between two devices: each sends 2 x 1/2 of them.
    assert (reduce.kind, reduce.bytes, reduce.group_size, reduce.times) == ("all-reduce", 64, 2, 1)
    assert reduce.sent_bytes == 64
    # 64 x 4 bfloat16 between four devices, five times: each sends three quarters of the array.
    assert (gather.kind, gather.bytes, gather.group_size, gather.times) == ("all-gather", 512, 4, 5)
    assert gather.sent_bytes == 5 * 384 and gather.times_known
    table = hlo.summary([reduce, gather, reduce])
    assert table["all-reduce"] == {"count": 2, "bytes": 128, "sent_bytes": 128}
    assert table["all-gather"] == {"count": 5, "bytes": 2560, "sent_bytes": 1920}
    assert list(table) == ["all-reduce", "all-gather"]


def test_loops_whose_length_xla_says_or_does_not_show():
    known = PROGRAM.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"12"}}')
    assert hlo.collectives(known, 8)[1].times == 12
    unknown = hlo.collectives(PROGRAM.replace("direction=LT", "direction=NE"), 8)[1]
    assert unknown.times == 1 and not unknown.times_known


def one(line, num_devices=8, before=""):
    found = hlo.collectives(f"{before}ENTRY %main (x: f32[8]) -> f32[8] {{\n  {line}\n}}\n", num_devices)
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize(
    ("line", "kind", "size", "group_size", "sent"),
    [
        # Each of 4 keeps 8 of 32 float32, and sends three quarters of them.
        (
            "%a = f32[8]{0} reduce-scatter(%x), replica_groups=[2,4]<=[2,4]T(1,0), to_apply=%s",
            "reduce-scatter", 128, 4, 96,
        ),
        ("%a = u8[40]{0} all-to-all(%x), replica_groups={{0,1,2,3}}", "all-to-all", 40, 4, 30),
        ("%a = f32[8]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}", "collective-permute", 32, 8, 32),
        (
            "%a = (f32[8]{0}, f32[8]{0}, u32[]{:S(2)}) collective-permute-start(%x), source_target_pairs={{0,1}}",
            "collective-permute", 32, 8, 32,
        ),
        # The result is what was taken, 8, and what is given, 16 float32.
        ("%a = (f32[8]{0}, f32[16]{0}) all-gather-start(%x), replica_groups={{0,1}}", "all-gather", 64, 2, 32),
        ("%a = f32[4]{0} all-reduce-start(%x), replica_groups={}, to_apply=%s", "all-reduce", 16, 8, 28),
        ("%a = pred[7,3]{1,0} all-reduce(%x), to_apply=%s", "all-reduce", 21, 8, 2 * 21 * 7 / 8),
        ("%a = f32[4] all-gather(%x), replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}", "all-gather", 16, 4, 12),
        ("%a = f32[4] all-gather(%x), replica_groups=mesh['a'=4,'b'=2] {'a':(1)2,'b'}", "all-gather", 16, 4, 12),
    ],
)  # fmt: skip
def test_each_kind_by_hand(line, kind, size, group_size, sent):
    found = one(line)
    assert (found.kind, found.bytes, found.group_size) == (kind, size, group_size)
    assert found.sent_bytes == pytest.approx(sent)


@pytest.mark.parametrize(
    "line",
    [
        "%a = f32[16]{0} all-gather-done(%b)",
        "%a = f32[4]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%s",  # a device with itself
        '%a = f32[4]{0} add(%x, %y), metadata={op_name="all-reduce(x)"}',
    ],
)
def test_what_sends_nothing(line):
    assert one(line) is None


def test_a_computation_that_runs_aside_counts_once():
    aside = "%aside (x: f32[8]) -> f32[8] {\n  ROOT %r = f32[8] all-to-all(%x), replica_groups={{0,1}}\n}\n"
    text = "%s = ((f32[8]), f32[8]) async-start(%x), calls=%aside\n  %d = f32[8] async-done(%s), calls=%aside"
    assert one(text, before=aside).bytes == 32


def test_a_fused_reduce_scatter():
    fused = "%fused (x: f32[8]) -> f32[2] {\n  %r = f32[8] all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%s\n}\n"
    found = one("%all-reduce-scatter.1 = f32[2] fusion(%x), kind=kCustom, calls=%fused", before=fused)
    assert (found.kind, found.bytes, found.sent_bytes) == ("reduce-scatter", 32, 24)
    # Sometimes only the fused computation has the name.
    line = "%fusion.1 = f32[2] fusion(%x), kind=kCustom, calls=%all-reduce-scatter"
    assert one(line, before=fused.replace("%fused", "%all-reduce-scatter")) == found


@pytest.mark.parametrize(
    ("shape", "size"),
    [("f32[]", 4), ("(s4[3]{0:E(4)}, bf16[2,3]{1,0:T(8,128)(2,1)S(1)})", 2 + 12), ("f8e4m3fn[5]", 5), ("c64[2]", 16)],
)
def test_bytes_of_shapes(shape, size):
    assert hlo.shape_bytes(shape) == size


CHAIN = """
%start (a: f32[2,8]) -> (f32[2,8], f32[8,8]) {
  %a = f32[2,8]{1,0} parameter(0)
  %g1 = f32[8,8]{1,0} all-gather(%a), channel_id=5, replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="0"}
  ROOT %c1 = (f32[2,8]{1,0}, f32[8,8]{1,0}) custom-call(%g1), custom_call_target="AsyncCollectiveStart"
}

%beside (b: f32[2,8], c: f32[8,8], x: f32[3]) -> (f32[3], f32[2,8], f32[8,8], f32[8,8]) {
  %b = f32[2,8]{1,0} parameter(0)
  %c = f32[8,8]{1,0} parameter(1)
  %x = f32[3]{0} parameter(2)
  %y = f32[3]{0} add(%x, %x)
  %g2 = f32[8,8]{1,0} all-gather(%b), channel_id=5, replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="0"}
  ROOT %t = (f32[3]{0}, f32[2,8]{1,0}, f32[8,8]{1,0}, f32[8,8]{1,0}) tuple(%y, %b, %c, %g2)
}

%done (d: f32[2,8], e: f32[8,8]) -> f32[8,8] {
  %d = f32[2,8]{1,0} parameter(0)
  %e = f32[8,8]{1,0} parameter(1)
  %g3 = f32[8,8]{1,0} all-gather(%d), channel_id=5, replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="0"}
  ROOT %c3 = f32[8,8]{1,0} custom-call(%d, %e, %g3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (p: f32[2,8], q: f32[3]) -> f32[8,8] {
  %p = f32[2,8]{1,0} parameter(0)
  %q = f32[3]{0} parameter(1)
  %s = (f32[2,8]{1,0}, f32[8,8]{1,0}) fusion(%p), kind=kCustom, calls=%start
  %s0 = f32[2,8]{1,0} get-tuple-element(%s), index=0
  %s1 = f32[8,8]{1,0} get-tuple-element(%s), index=1
  %m = (f32[3]{0}, f32[2,8]{1,0}, f32[8,8]{1,0}, f32[8,8]{1,0}) fusion(%s0, %s1, %q), kind=kCustom, calls=%beside
  %m0 = f32[2,8]{1,0} get-tuple-element(%m), index=1
  %m1 = f32[8,8]{1,0} get-tuple-element(%m), index=2
  ROOT %f = f32[8,8]{1,0} fusion(%m0, %m1), kind=kCustom, calls=%done
}
"""


def test_a_collective_that_goes_on_beside_fusions_counts_once():
    (gather,) = hlo.collectives(CHAIN, 4)
    assert (gather.kind, gather.bytes, gather.times, gather.sent_bytes) == ("all-gather", 256, 1, 192)
    # The collective takes 64 bytes and gives 256; three numbers are read and three written beside it.
    assert traffic.memory_bytes(CHAIN) == 64 + 256 + 12 + 12
    other = CHAIN.replace("%d), channel_id=5", "%d), channel_id=6")
    assert len(hlo.collectives(other, 4)) == 2
