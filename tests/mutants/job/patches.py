"""Mistakes in the job itself, each an edit of one function's text, and the test that must fail with it."""

from __future__ import annotations

from typing import NamedTuple


class Patch(NamedTuple):
    """`where` and `test` are a module and a name in it; `case` are the test's arguments, where it has any."""

    name: str
    where: str
    old: str
    new: str
    test: str
    case: tuple[object, ...] = ()


RESULTS, ORACLE = "tests.report.test_results:", "tests.test_oracle:"
TIMED, CHECKS = "tests.workers.test_timed:", "tests.job.test_checks:"
JOB = "tests.mutants.job.test_job_mutants:"

PATCHES = [Patch(*p) for p in (
    # The alarm.
    ("a disagreement ends with 0", "bench.cli.run:report", "return 4", "return 0", f"{JOB}rings", ("images too dark",)),
    ("a disagreement counts as missing work", "bench.cli.run:report", "return 4", "return 3", f"{JOB}rings", ("images too dark",)),
    ("disagreements are not printed", "bench.cli.run:report", "print(\"\\n\".join([\"\", *bad]), file=sys.stderr)", "pass",
     f"{JOB}rings", ("images too dark",)),
    ("missing work ends with 0", "bench.cli.run:report", "return 3 if", "return 0 if", f"{JOB}left_undone"),
    ("answers that are none count as missing work", "bench.cli.run:report", ", *book.wrong]", "]", f"{JOB}rings", ("a table not finite",)),
    ("every verdict is ok", "bench.oracle:verdict", "tolerance is None or bool(error <= tolerance)", "True", f"{ORACLE}test_verdicts",
     (1.1, 1.0, 1.1, False)),
    ("an error that is not finite is ok", "bench.oracle:verdict", "finite and (tolerance is None", "not finite or (tolerance is None",
     f"{ORACLE}test_verdicts", (float("nan"), 1.0, None, False)),
    ("only the first failed comparison of a row is listed", "bench.report.results:disagreements", "row.values.items() if",
     "list(row.values.items())[:1] if", f"{RESULTS}test_verdicts_are_shown_and_counted"),
    ("only comparisons with the oracle are listed", "bench.report.results:disagreements", "if not v[\"ok\"]",
     "if not v[\"ok\"] and \"oracle\" in row.backend", f"{RESULTS}test_verdicts_are_shown_and_counted"),
    ("the table calls every verdict ok", "bench.report.results:check_table", "DISAGREES if not v[\"ok\"]",
     "\"ok\" if not v[\"ok\"]", f"{RESULTS}test_verdicts_are_shown_and_counted"),
    # Errors.
    ("the forward error is that of an answer with itself", "bench.oracle:errors", "difference(found.output, network(found.x, found.t))",
     "difference(found.output, found.output)", f"{ORACLE}test_errors_are_what_is_wrong"),
    ("NaN passes the largest", "bench.oracle:largest", "np.max(errors)", "np.nanmax(errors)", f"{ORACLE}test_nan_passes_no_maximum",
     (0,)),
    ("other shapes are stretched", "bench.oracle:difference", "np.shape(found) != np.shape(expected)", "False",
     f"{ORACLE}test_another_shape_is_infinitely_wrong"),
    ("the signed difference for its size", "bench.oracle:difference", "np.abs(np.subtract(found, expected, dtype=np.float64)).max()",
     "np.subtract(found, expected, dtype=np.float64).max()", f"{ORACLE}test_another_shape_is_infinitely_wrong"),
    ("the mean difference for the largest", "bench.oracle:difference", ").max()", ").mean()", f"{ORACLE}test_errors_are_what_is_wrong"),
    ("the oracle's path without the noise", "bench.oracle:path_error", "else samplers.sample(network, start, plan, z)",
     "else samplers.sample(network, start, plan)",
     f"{ORACLE}test_a_path_is_followed_with_its_noise"),
    ("path errors by the sum of pixels", "bench.oracle:path_error", "np.abs(expected).max()", "np.abs(expected).sum()",
     f"{ORACLE}test_a_path_is_followed_with_its_noise"),
    ("the moments of a step are not looked at", "bench.oracle:step_error", "((\"adam_m\", m), (\"adam_v\", v))", "()",
     f"{ORACLE}test_a_training_step_is_held_to_the_optimiser", (0,)),
    ("the average of a step is not looked at", "bench.oracle:step_error", "((\"weights\", w), (\"ema\", ema))", "((\"weights\", w),)",
     f"{ORACLE}test_a_training_step_is_held_to_the_optimiser", (0,)),
    ("a step's weights are held to themselves", "bench.oracle:step_error", "after[part][name] - value", "value - value",
     f"{ORACLE}test_a_training_step_is_held_to_the_optimiser", (7,)),
    ("rounding of the weights is blamed", "bench.oracle:step_error", "- rounding", "", f"{ORACLE}"
     "test_a_state_of_float32_is_not_blamed_for_its_rounding"),
    # What is compared.
    ("paths: the first image alone", "bench.job.checks:_some", "{0, n // 2 // size * size + size // 2, n - 1}", "{0}", f"{JOB}rings", ("the last image of a batch wrong",)),
    ("paths: repeated images are not looked for", "bench.job.checks:_repeated", "first.setdefault(hash(image.tobytes()), n) < n", "False", f"{JOB}rings",
     ("one image in the midst repeats another",)),
    ("paths: not compared", "bench.job.checks:_path", "verdict(error, within", "verdict(0 * error, within", f"{JOB}rings",
     ("images too dark",)),
    ("paths: one eta alone", "bench.job.checks:paths", "in alike:", "in alike[:1]:", f"{JOB}rings", ("no noise",)),
    ("paths: the long ones are not compared", "bench.job.checks:paths", "longest.steps > GATED_STEPS", "False", f"{JOB}rings",
     ("wrong after step 256",)),
    ("losses: below or above, it is all the same", "bench.job.checks:training", "verdict(ratio, ", "verdict(1 / ratio, ", f"{JOB}rings",
     ("gradients of the wrong sign in training alone",)),
    ("losses: that before the training twice", "bench.job.training:_cell", "\"loss_after\": after",
     "\"loss_after\": crew.loss(backend, few)[0]", f"{JOB}right_alone"),
    ("losses: a backend compared with itself", "bench.job.checks:losses", "for r in (found[0], other)", "for r in (other, other)",
     f"{JOB}losses_differ"),
    ("images: a backend compared with itself", "bench.job.checks:_images", "*both.values()", "*[both[who[0]]] * 2",
     f"{CHECKS}test_two_backends_are_compared_with_the_first"),
    ("images: reported without a verdict", "bench.job.checks:_images", "cell.steps <= GATED_STEPS", "False",
     f"{CHECKS}test_two_backends_are_compared_with_the_first"),
    ("steps: the first alone", "bench.job.checks:_steps", "zip(done, (o, o), numbers, strict=True)",
     "list(zip(done, (o, o), numbers, strict=True))[:1]",
     f"{JOB}rings", ("no decay of the rate",)),
    ("the floor is that of training images", "bench.job.measuring:measure", "test=job.held_out", "test=job.dataset",
     f"{CHECKS}test_the_floor_is_that_of_held_out_images_and_each_cell_has_its_own_metric"),
    ("all metrics are of the last cell's images", "bench.job.measuring:measure", "partial(_evaluate, job, path, cell.seed)",
     "partial(_evaluate, job, list(images.values())[-1], cell.seed)",
     f"{CHECKS}test_the_floor_is_that_of_held_out_images_and_each_cell_has_its_own_metric"),
    ("images of another network are used again", "bench.job.job:Job.images_key", "weights=self.trained_hash, ", "",
     f"{CHECKS}test_another_networks_cells_are_not_used_again_and_the_report_is_of_this_run"),
    ("rows of earlier runs in the report", "bench.cli.run:report", "results.shown(book.rows,", "results.shown(rows.read(args.out / \"rows\"),",
     f"{CHECKS}test_another_networks_cells_are_not_used_again_and_the_report_is_of_this_run"),
    # Figures of the report.
    ("ratio inverted", "bench.report.speed_page:ratio_lines",
     "paired_ratio(unit_seconds(other), unit_seconds(found[0]))", "paired_ratio(unit_seconds(found[0]), unit_seconds(other))", f"{RESULTS}test_ratio_lines"),
    ("A/A of the same blocks", "bench.report.speed_page:races", "paired_ratio(x[0::2], x[1::2])", "paired_ratio(x[0::2], x[0::2])",
     f"{RESULTS}test_ratio_lines"),
    ("A/A of the second backend alone", "bench.report.speed_page:ratio_lines", "for j in (0, i)", "for j in (i, i)", f"{RESULTS}test_ratio_lines"),
    ("the interval's ends exchanged", "bench.report.speed_page:ratio_lines",
     "{ratio.low:.2f} .. {ratio.high:.2f}", "{ratio.high:.2f} .. {ratio.low:.2f}",
     f"{RESULTS}test_ratio_lines"),
    ("seconds of a block for those of a unit", "bench.report.measures:unit_seconds", " / row.values[\"units_per_block\"]", "",
     f"{RESULTS}test_speed_lines"),
    ("images/s without the batch", "bench.report.speed_page:speed_table", "round(row.config[\"batch_size\"] / s[\"median\"], 1)",
     "round(1 / s[\"median\"], 1)", f"{RESULTS}test_speed_lines"),
    ("the fastest block for the median", "bench.report.speed_page:speed_table", "1e3 * s[\"median\"]", "1e3 * s[\"min\"]", f"{RESULTS}test_speed_lines"),
    ("unsteady times called steady", "bench.report.measures:steady", "row.values[\"steady\"] and", "True and", f"{RESULTS}test_speed_lines"),
    ("CV by the median", "bench.timing.blocks:summary", "spread / x.mean()", "spread / median", f"{RESULTS}test_speed_lines"),
    ("ratio of medians, not of neighbours", "bench.report.measures:paired_ratio", "ratio = x / y", "ratio = x / np.median(y)",
     "tests.report.test_measures:test_paired_ratio_ignores_drift_that_hits_both"),
    ("A B A B", "bench.timing.blocks:time_blocks", "if i % 2 == 0", "if True", "tests.timing.test_blocks:test_contenders_alternate_a_b_b_a"),
    ("the first unit counts", "bench.timing.blocks:time_blocks", "began = block(1) if first is None else first[name]", "began = 0.0",
     "tests.timing.test_blocks:test_the_first_unit_is_reported_apart"),
    ("another backend's FID", "bench.report.results:sample_table", "if m.backend == row.backend]", "if m]", f"{RESULTS}test_sample_lines"),
    ("another cell's FID", "bench.report.results:sample_table", "of(rows, Metric, **cell)", "of(rows, Metric)", f"{RESULTS}test_sample_lines"),
    ("FID for KID", "bench.report.results:sample_table", "{m['kid']:.2g}", "{m['fid']:.2g}", f"{RESULTS}test_sample_lines"),
    ("images/s is s/image", "bench.report.results:sample_table", "{1 / per_image:.4g}", "{per_image:.4g}", f"{RESULTS}test_sample_lines"),
    ("the first call counts as drawing", "bench.report.measures:seconds_per_image", "sum(row.values[\"batch_seconds\"][rank::processes])",
     "sum(row.values[\"batch_seconds\"][rank::processes]) + row.values[\"first_seconds\"]", f"{RESULTS}test_sample_lines"),
    ("processes one after another", "bench.report.measures:seconds_per_image", "[rank::processes]", "[:]", f"{RESULTS}test_sample_lines"),
    ("floor and ceiling exchanged", "bench.report.results:bounds", "(\"real\", \"floor: held-out real images\")",
     "(\"noise\", \"floor: held-out real images\")", f"{RESULTS}test_bounds"),
    # Timed blocks.
    ("half the training steps timed", "bench.workers.timed:_block", "range(asked.units)", "range(-(-asked.units // 2))",
     f"{TIMED}test_a_block_is_so_many_units_and_one_wait", (0,)),
    ("half the sampling steps timed", "bench.sampling.loop:time_steps", "for plan in plans:", "for plan in [plans[0].cut(0, -(-plans[0].steps // 2))]:",
     f"{JOB}sampling_is_timed_whole"),
    ("the clock stops before the wait", "bench.workers.timed:_block", "session.backend.synchronize(*([out] if wait else []))", "pass",
     f"{TIMED}test_a_block_is_so_many_units_and_one_wait", (0,)),
    ("sampling: the clock stops before the wait", "bench.sampling.loop:time_steps", "    backend.synchronize(out)\n", "",
     f"{JOB}sampling_is_timed_whole"),
    ("making of inputs timed", "bench.sampling.loop:time_steps", "    began = time.perf_counter()\n    for",
     "    began = time.perf_counter()\n    backend.to_device(x)\n    for", f"{JOB}sampling_is_timed_whole"),
    ("work that is left is not looked for", "bench.workers.timed:_late", "return max(0.0,", "return 0 * max(0.0,", f"{JOB}rings",
     ("does not wait for training steps",)),
    ("work that is left is not judged", "bench.job.checks:timed", "if \"late\" in row.values", "if \"late\" in row.config", f"{JOB}rings",
     ("does not wait for sampling steps",)),
    ("timed images are not compared", "bench.job.checks:timed", "verdict(error, ", "verdict(0 * error, ", f"{JOB}rings",
     ("half the steps where no noise is given",)),
)]
