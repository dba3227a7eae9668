const colours = ["#3b6fd4", "#c8372d", "#2a9d5c", "#d98e04", "#7a4fc0", "#0d8f9c", "#b83b8c", "#5a6472", "#8a5a2b", "#6b8e00"];
const { runs, table, verdicts, caveats, conclusion } = report;
const colour = (index) => colours[index % colours.length];
add(page, "p", conclusion, "conclusion");
for (const verdict of verdicts) add(page, "p", verdict);
for (const caveat of caveats) add(page, "p", caveat, "warning");
const grid = add(page, "table");
table.forEach((cells, index) => {
  const row = add(add(grid, index ? "tbody" : "thead"), "tr");
  cells.forEach((text, column) => {
    const cell = add(row, index ? "td" : "th", text);
    if (index && !column) {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = colour(index - 1);
      cell.prepend(swatch);
    }
  });
});
// Plots one figure of all runs over a common axis, which has every time that occurs in any run. A run without a value at one
// of these times has a gap there, which its line spans.
function overlay(title, unit, times, values, options) {
  const tables = runs.map((run) => [times(run), values(run)]).map((columns) => (columns[0].length ? columns : [[0], [null]]));
  const drawn = runs.map((run) => line(run.name, colour(run.group), { dash: run.group >= colours.length ? [6, 4] : [], ...(options.stepped ? step : {}) }));
  plot(title, unit, drawn, uPlot.join(tables), options);
}
overlay("Offered load", "requests per second", (run) => run.seconds, (run) => run.offered, { stepped: true });
overlay("p95 latency from the scheduled send time", "milliseconds", (run) => run.seconds, (run) => run.p95, { logarithmic: true });
overlay("Queue length", "requests waiting", (run) => run.metrics_at, (run) => run.queue, { stepped: true });
overlay("Replicas", "replicas", (run) => run.metrics_at, (run) => run.replicas, { stepped: true });
