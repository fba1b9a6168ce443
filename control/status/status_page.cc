#include "control/status/status_server.h"

namespace hud {

// All that comes from /status goes into the page as text, never as markup.
const std::string_view kStatusPage = R"page(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Hudsucker</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 64em; padding: 0 1em; color: #222; }
h1 { font-size: 1.3em; margin-bottom: 0; } h2 { font-size: 1.05em; margin: 1.6em 0 .3em; }
p { margin: .2em 0; color: #666; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .25em .6em; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: #666; } th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
.up { color: #176b2c; } .silent { color: #8a6100; } .draining { color: #1b4f9c; } .down { color: #a3201d; }
@media (prefers-color-scheme: dark) {
  body { background: #181a1b; color: #ddd; } th, td { border-color: #333; }
  .up { color: #6fcf86; } .silent { color: #e0b354; } .draining { color: #82b1ff; } .down { color: #ff8a84; }
}
</style></head><body>
<h1>Hudsucker</h1><p id="process">…</p><div id="pools"></div><h2>Connections that ended</h2><p id="closes"></p>
<p><a href="/status">/status</a> · <a href="/metrics">/metrics</a></p>
<script>
"use strict";
const el = (name, text, css) => {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  if (css) e.className = css;
  return e;
};
const percent = (part, whole) => whole ? (100 * part / whole).toFixed(1) + " %" : "–";
const row = (cell, texts) => {
  const tr = el("tr");
  for (const t of texts) tr.append(t instanceof Node ? t : el(cell, t));
  return tr;
};
function draw(s) {
  const active = s.workers.reduce((sum, w) => sum + w.active, 0);
  document.getElementById("process").textContent =
    `version ${s.version}, process ${s.pid}, up ${Math.round(s.uptime_s)} s, ${active} connections` +
    (s.draining ? ", draining" : "") + `; tokens known: ${s.affinity.size} exact, ${s.affinity.prefixes} prefixes; ` +
    `beacons applied: ${s.beacons.applied}`;
  const pools = document.getElementById("pools");
  pools.replaceChildren();
  for (const pool of s.pools) {
    pools.append(el("h2", `Pool ${pool.name} (${pool.balance})`));
    const table = el("table");
    table.append(row("th", ["node", "address", "state", "weight", "load", "active", "total", "offered", "resumed", ""]));
    for (const n of pool.nodes) {
      table.append(row("td", [n.name, n.address, el("td", n.state, n.state), n.weight, percent(n.load, 1), n.active,
                              n.total, n.offered, n.resumed, percent(n.resumed, n.offered)]));
    }
    table.append(row("th", ["all", "", "", "", "", "", pool.total, pool.offered, pool.resumed,
                            percent(pool.resumed, pool.offered)]));
    pools.append(table);
  }
  document.getElementById("closes").textContent =
    Object.entries(s.closes).filter(([, n]) => n).map(([name, n]) => `${name} ${n}`).join(" · ") || "none yet";
}
async function turn() {
  try {
    draw(await (await fetch("/status")).json());
  } catch (e) {
    document.getElementById("process").textContent = "no answer: " + e.message;
  }
  setTimeout(turn, 1000);
}
turn();
</script></body></html>
)page";

}  // namespace hud
