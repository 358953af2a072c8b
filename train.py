"""Trains a model: python train.py --config=configs/digits.py --workdir=runs/digits.

Flags, wiring and the training loop; the parts are in vit_jax/. The same command again continues.
"""

import contextlib
import functools
import pathlib
import sys
import time

from vit_jax.cli import errors, flags, workdir_files
from vit_jax.system import compile_cache as compiled
from vit_jax.system import hosts, malloc

ROOT = pathlib.Path(__file__).resolve().parent
STARTED = time.perf_counter()


def train(config, workdir: pathlib.Path) -> int:
    """Runs, or continues, the experiment of a config.

    Args:
        config: locked ConfigDict with the keys of configs/common.py.
        workdir: for checkpoints, metrics.jsonl, TensorBoard files and config.json.

    Returns:
        The exit status: 0, or 143 and 130 if SIGTERM or Ctrl-C ended it early, after a save.
    """
    import jax

    from vit_jax.build import experiment as build
    from vit_jax.data.loading.loader import Prefetch, Share
    from vit_jax.ops.trees import leaf_names
    from vit_jax.parallel import strategy as parallel
    from vit_jax.system.signals import StopSignals
    from vit_jax.training.checkpoints.reading import last_info
    from vit_jax.training.checkpoints.writing import Checkpoints
    from vit_jax.training.evaluation import evaluate_all
    from vit_jax.training.json_lines import last_values
    from vit_jax.training.pace import Pace
    from vit_jax.training.profile import Profile
    from vit_jax.training.run_log import RunLog
    from vit_jax.training.schedule import Every
    from vit_jax.training.step import check_accumulate_steps, make_eval_step

    # Build.
    strategy = parallel.create(**config.parallel)
    compiled.keep_in(workdir.parent / ".jax_cache")
    parallel.check_batch_size(config.batch_size, strategy)
    check_accumulate_steps(config.accumulate_steps, batch_size=config.batch_size, num_slices=strategy.num_slices)
    run = build.experiment(config, saved_info=last_info(workdir / "checkpoints"))
    init, train_step = build.init_and_train_step(config, run, axis_name=strategy.axis_name)
    train_step = strategy.compile_train_step(train_step)
    eval_step = strategy.compile_eval_step(
        make_eval_step(
            run.model,
            run.task,
            prepare=run.prepare,
            row_names=run.evaluators.row_names,
            axis_name=strategy.axis_name,
        )
    )
    log_every = Every(config.log_every_steps, run.total_steps)
    evaluate_every = Every(config.evaluation.every_steps, run.total_steps)
    save_every = Every(config.checkpoint.every_steps, run.total_steps)
    profile = Profile(workdir / "profile", total_steps=run.total_steps, **config.profile)

    # Restore, or start anew.
    make_state = functools.partial(init, config.seed, run.example)
    template = strategy.abstract_state(make_state)
    metric_names = [name for name in template.sums if name != "gradient_norm"] + run.evaluators.metrics
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        best_metric=config.checkpoint.best_metric,
        best_mode=config.checkpoint.best_mode,
        known_metrics=[f"{name}/{metric}" for name in run.eval_loaders for metric in metric_names],
    )
    with contextlib.ExitStack() as closing:
        closing.enter_context(workdir_files.locked(workdir))
        closing.enter_context(checkpoints)
        restored = checkpoints.restore(template, run.info, max_step=run.total_steps)
        state = restored.state if restored else strategy.new_state(make_state)
        step = start_step = restored.step if restored else 0
        changes = workdir_files.save_config(workdir, config, write=start_step < run.total_steps)
        log = closing.enter_context(
            RunLog(
                workdir,
                start_step=start_step,
                total_steps=run.total_steps,
                batch_size=config.batch_size,
                fetch=strategy.fetch,
                leaf_names=leaf_names(run.optimizer.split(state.params)[0]),
                max_skipped_steps=config.max_skipped_steps,
            )
        )
        log.print(workdir_files.opening_line(config, run, state.params, strategy, workdir))
        for note in strategy.notes(state.params):
            log.print(note)
        for note in workdir_files.resume_notes(restored, changes, total_steps=run.total_steps):
            log.print(note)
        if run.warm_start is not None and restored is None:
            state = run.warm_start.apply(state)
            log.print(str(run.warm_start.report))
        if run.teacher is not None and restored is None:
            state = run.teacher.apply(state)
            log.print(str(run.teacher))
        if start_step < run.total_steps:
            log.print("compiling the train step")
        state = strategy.place_state(state)

        # Train.
        stream = run.train_loader.train_batches(
            Share.of_this_process(config.batch_size),
            seed=config.seed,
            start_step=start_step,
            total_steps=run.total_steps,
        )
        stop = closing.enter_context(StopSignals())
        pace = Pace(closing.enter_context(Prefetch(stream, strategy.place_batch)))
        closing.enter_context(profile)
        stopping = False
        while step < run.total_steps and not stopping:
            batch = pace.next_batch()
            with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                state, metrics = train_step(state, batch)
            pace.submitted(metrics)
            step += 1
            if step == start_step + 1:
                jax.block_until_ready(metrics)
                log.started(step, pace.wait_seconds, seconds_to_first_step=time.perf_counter() - STARTED)
            if profile.after(step, metrics):
                log.print(f"a trace of {config.profile.num_steps} steps is in {profile.directory}")
            if log_every.is_due(step):
                with jax.profiler.TraceAnnotation("log"):
                    log.train(step, metrics, pace.wait_seconds)
            results = {}
            if evaluate_every.is_due(step):
                params = state.params if state.ema_params is None else state.ema_params
                with log.paused(params):
                    results = evaluate_all(
                        eval_step,
                        params,
                        run.eval_loaders,
                        batch_size=config.evaluation.batch_size,
                        strategy=strategy,
                        evaluators=run.evaluators,
                        out=workdir / "evaluation" / f"step_{step}",
                    )
                log.evaluation(step, results)
            stopping = stop.agreed(step)
            if save_every.is_due(step) or stopping or (results and config.checkpoint.best_metric):
                log.flush()  # the lines of a step are on disk before its checkpoint
                log.raise_if_diverged(step, *strategy.fetch((state.skipped_in_row, state.nonfinite_leaf)))
                with jax.profiler.TraceAnnotation("save"):
                    checkpoints.save(step, strategy.snapshot(state), run.info, results)
        log.flush()
        checkpoints.wait()
        if stopping:
            log.print(f"stopped at step {step}, which is saved; the same command continues")
            return stop.exit_status()
    if jax.process_index() == 0:
        values = last_values(workdir / "metrics.jsonl")
        print(workdir_files.final_table(workdir, step, values, log.summary()))
    return 0


if __name__ == "__main__":
    if {"-h", "--help", "-help"} & set(sys.argv[1:]):
        print(flags.usage(ROOT), end="")
        sys.exit(0)
    malloc.keep_freed_memory()
    with errors.one_line_errors("train.py"):
        config, workdir = flags.parse(sys.argv, root=ROOT)
        hosts.join("train.py", *flags.processes())
        sys.exit(train(config, workdir))
