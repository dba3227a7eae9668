const { setup, summary, punctuality: sendDelays, seconds, glimpses: serverMetrics, thresholds, distribution } = report;
add(page, "p", `${setup.load}${setup.arrivals ? `, ${setup.arrivals} arrivals` : ""}, seed ${setup.seed}, ${setup.pictures} images (${setup.form}), to ${setup.url}, ${setup.started_at}`, "setup");
if (!report.is_complete) add(page, "p", `Stopped after ${setup.length_seconds.toFixed(1)} s; ${report.unfinished} requests were still in flight.`, "warning");
if (sendDelays.is_bottleneck) add(page, "p", `${sendDelays.late_sends} requests were sent over ${sendDelays.late_after_ms} ms late: loadgen was the bottleneck, and the figures say nothing about the server.`, "warning");
for (const result of thresholds.filter((result) => !result.held)) add(page, "p", `Breached: ${result.condition}`, "warning");
const figures = add(page, "div", undefined, "figures");
const { usage } = summary;
// A run without requests has no percentile, although no request failed.
const orNever = (value) => (value === null ? (summary.offered ? "never" : "–") : ms(value));
for (const [value, name] of [
  [percent(summary.attainment), `within ${ms(setup.objective_ms)}`],
  [orNever(summary.offered_latency_ms.p50), "median latency of all offered"],
  [orNever(summary.offered_latency_ms.p95), "p95 of all offered"],
  [orNever(summary.offered_latency_ms.p99), "p99 of all offered"],
  [summary.offered, "requests offered"],
  [summary.failed, "failed"],
  [summary.accuracy === null ? "–" : percent(summary.accuracy), "right answers"],
  ...(usage ? [[usage.replica_seconds.toFixed(0), "replica-seconds"]] : []),
]) {
  const figure = add(figures, "div", undefined, "figure");
  add(figure, "b", value);
  add(figure, "span", name);
}
const time = seconds.map((row) => row.second);
const latency = (name) => seconds.map((row) => row.latency_ms && row.latency_ms[name]);
plot("Offered load", "requests per second",
  [line("offered", "#3b6fd4", step), line("within the objective", "#2a9d5c", step), line("failed", "#c8372d", step)],
  [time, seconds.map((row) => row.offered), seconds.map((row) => row.within_objective), seconds.map((row) => row.failed)]);
plot("Latency from the scheduled send time", "milliseconds",
  [line("p50", "#2a9d5c"), line("p95", "#d98e04"), line("p99", "#c8372d"), line("objective", "#667085", { dash: [6, 4] })],
  [time, latency("p50"), latency("p95"), latency("p99"), time.map(() => setup.objective_ms)]);
if (serverMetrics.length) {
  const time = serverMetrics.map((metrics) => metrics.at_seconds);
  plot("Replicas", "replicas",
    [line("in rotation", "#7a4fc0", step), line("asked for", "#d98e04", { ...step, dash: [6, 4] })],
    [time, serverMetrics.map((metrics) => metrics.replicas), serverMetrics.map((metrics) => metrics.desired_replicas)]);
  plot("Queue length", "requests waiting", [line("queue", "#3b6fd4", step)], [time, serverMetrics.map((metrics) => metrics.queue_length)]);
}
if (distribution.length > 1) {
  // The x axis counts nines (0.9 is 1, 0.99 is 2, …), so that each further nine has the same width. The maximum, whose
  // quantile is 1, would lie at infinity and is left out.
  const within = distribution.filter(([quantile]) => quantile < 1);
  const nines = within.map(([quantile]) => -Math.log10(1 - quantile));
  const share = (x) => (x <= 0 ? "0" : (100 * (1 - 10 ** -x)).toFixed(Math.max(0, Math.ceil(x) - 2)) + " %");
  plot("Latency by percentile", "milliseconds", [line("latency", "#3b6fd4")], [nines, within.map(([, value]) => value)],
    { time: false, x: "share of the answered requests", values: (u, splits) => splits.map((x) => (Number.isInteger(x) ? share(x) : "")), value: (u, x) => (x === null ? "–" : share(x)) });
}
add(page, "h2", "Summary");
add(page, "pre", report.text);
