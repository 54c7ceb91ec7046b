"""The report's style sheet: light and dark, paper, 360 pixels and up."""

STYLE = """
:root { color-scheme: light dark; --bg: #fff; --soft: #f5f6f8; --line: #d5d9e0; --text: #1c2128; --quiet: #57606a; --accent: #2757c4;
  --band: #2757c41f; --good: #116329; --good-bg: #e6f4ea; --bad: #a40e26; --bad-bg: #fdeaec; --same: #4a3aa8; --same-bg: #eeebfb;
  --open: #6b4e00; --open-bg: #fbf3dc; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171c; --soft: #1d2128; --line: #3a414c; --text: #e6e9ee; --quiet: #a4adb9;
  --accent: #86abff; --band: #86abff2e; --good: #7ddc96; --good-bg: #15301d; --bad: #ff9aa6; --bad-bg: #3a171d; --same: #bdb2ff;
  --same-bg: #262047; --open: #ecc968; --open-bg: #322a12; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--bg); color: var(--text); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header, main, footer { max-width: 75rem; margin: 0 auto; padding: 0 clamp(1rem, 3vw, 2rem); }
header { padding-top: 2rem; } footer { padding-top: 2rem; padding-bottom: 3rem; color: var(--quiet); font-size: .875rem; }
h1 { font-size: clamp(1.6rem, 4vw, 2.2rem); line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.015em; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .8rem; letter-spacing: -.01em; } h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
h1, h2, h3, p, li, td, th, dd, dt, caption, summary { overflow-wrap: anywhere; }
p { margin: .4rem 0; } .quiet { color: var(--quiet); font-size: .9rem; max-width: 70ch; }
a { color: var(--accent); } a:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 3px solid var(--accent);
  outline-offset: 2px; }
.skip { position: absolute; left: -100vw; } .skip:focus { left: 1rem; top: 1rem; background: var(--bg); padding: .5rem 1rem; z-index: 2; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; list-style: none; margin: 1rem 0 0; padding: .7rem 0; border: solid
  var(--line);
  border-width: 1px 0; }
.notice { border-left: 4px solid var(--open); background: var(--open-bg); padding: .6rem .9rem; margin: 1rem 0; }
.verdicts { display: grid; gap: 1rem; list-style: none; margin: 0; padding: 0; grid-template-columns: repeat(auto-fit, minmax(min(100%,
  24rem), 1fr)); }
.verdict { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.1rem; background: var(--soft); }
.verdict svg { margin-top: .6rem; }
.badge { display: inline-block; font-weight: 650; border-radius: .4rem; padding: .1rem .6rem; }
.better { color: var(--good); background: var(--good-bg); } .worse { color: var(--bad); background: var(--bad-bg); }
.same { color: var(--same); background: var(--same-bg); } .open { color: var(--open); background: var(--open-bg); }
.charts { display: grid; gap: 1.5rem 3rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 650; margin-bottom: .3rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; max-width: 32rem; height: auto; fill: var(--text); }
svg text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; } svg .name { font-weight: 600; }
figure svg text { paint-order: stroke; stroke: var(--bg); stroke-width: 4px; }
svg .value { font-variant-numeric: tabular-nums; } svg .tick { fill: var(--quiet); font-size: 12px; }
svg path { fill: none; } svg .grid { stroke: var(--line); } svg .zero { stroke: var(--quiet); stroke-dasharray: 3 3; }
svg .band { fill: var(--band); } svg .bar { stroke: var(--accent); stroke-width: 3; } svg .cap { stroke: var(--accent); stroke-width: 2; }
svg .dot { fill: var(--accent); stroke: var(--bg); stroke-width: 1.5; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; } caption { text-align: left; color: var(--quiet); padding-bottom:
  .4rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .7rem; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); } .numbers td, .numbers thead th:not(:first-child) { text-align: right; }
.numbers td { font-variant-numeric: tabular-nums; white-space: nowrap; } .numbers th { min-width: 4rem; overflow-wrap: break-word; }
  .numbers th:first-child { min-width: 8rem; max-width: 20rem; }
.answers { table-layout: fixed; } .answers th:first-child { width: 24%; } .answers tbody th { font-weight: 400; background: var(--soft);
  position: sticky; left: 0; }
.wide { min-width: calc(12rem + 13rem * var(--columns, 2)); }
.id { font-weight: 650; } .field { font-size: .85rem; color: var(--quiet); } .field b { font-weight: 600; }
.text { white-space: pre-wrap; margin: 0 0 .35rem; } .field .text { display: inline; margin: 0 0 0 .4rem; color: var(--text); }
.answer + .answer { margin-top: .8rem; padding-top: .8rem; border-top: 1px dashed var(--line); } .label { color: var(--quiet);
  font-size: .8rem; margin: 0; }
.marks { display: flex; flex-wrap: wrap; gap: .3rem; list-style: none; margin: 0; padding: 0; font-size: .8rem; }
.marks li { border-radius: .35rem; padding: .05rem .45rem; background: var(--soft); border: 1px solid var(--line); }
.marks .pass { color: var(--good); background: var(--good-bg); border-color: transparent; }
.marks .fail { color: var(--bad); background: var(--bad-bg); border-color: transparent; }
.pair { border-left: 3px solid var(--line); padding: .2rem 0 .2rem .9rem; margin: .9rem 0; }
.diff ins { background: var(--good-bg); color: var(--good); text-decoration: underline; }
.diff del { background: var(--bad-bg); color: var(--bad); text-decoration: line-through; }
.error { color: var(--bad); } details { margin: 0 0 .35rem; } summary { color: var(--accent); cursor: pointer; font-size: .85rem; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; margin: .3rem 0 .9rem;
  white-space: pre-wrap;
  overflow-wrap: anywhere; font: .875rem/1.5 ui-monospace, SFMono-Regular, Consolas, monospace; }
.facts th { font-weight: 600; width: 16rem; } .facts td { font-family: ui-monospace, SFMono-Regular, Consolas, monospace; font-size:
  .85rem; }
@media (max-width: 40rem) {
  .stack, .stack tbody, .stack tr, .stack th, .stack td { display: block; width: 100% !important; min-width: 0; }
  .stack tbody th { position: static !important; }
  .stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stack tr { border: 1px solid var(--line); border-radius: .6rem; margin-bottom: 1rem; overflow: hidden; }
  .stack td, .stack tbody th { border-bottom: 1px solid var(--line); } .stack tr > :last-child { border-bottom: 0; }
  .stack td[data-label]::before { content: attr(data-label); display: block; font-weight: 650; font-size: .85rem; color: var(--quiet);
    white-space: normal; overflow-wrap: anywhere; }
  .numbers.stack td { display: flex; justify-content: space-between; gap: 1rem; padding: .25rem .7rem; }
  .numbers.stack td::before { font-weight: 400 !important; }
}
@media print { :root { color-scheme: light; } nav, .skip { display: none; } body { font-size: 10pt; } h2 { break-after: avoid; }
  tr, figure, .verdict, pre { break-inside: avoid; } svg { max-width: 22rem; }
  .scroll { overflow: visible; } thead { display: table-header-group; } .wide {
  min-width: 0; }
  .badge, .marks li { border: 1px solid; } }
"""
