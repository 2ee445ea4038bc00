"""The report's style sheet: light and dark, print too, nothing loaded from elsewhere."""

STYLE = """
:root { --ink: #1f2430; --soft: #5d6675; --line: #e3e7ee; --paper: #fbfcfe; --card: #ffffff;
  --blue: #0072b2; --yes: #00704f; --yes-bg: #ddf3ea; --no: #a63d00; --no-bg: #fde8dc;
  --open: #565d6b; --open-bg: #e9ecf1; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #a0a8b7; --line: #323846;
  --paper: #14171d; --card: #1b1f27; --blue: #56b4e9; --yes: #6fdcb4; --yes-bg: #12382b;
  --no: #ffb088; --no-bg: #45200f; --open: #b4bcc9; --open-bg: #2b313c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 32px; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 8px; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 0 0 14px; }
h3 { font-size: 14px; color: var(--soft); font-weight: 600; margin: 26px 0 8px;
  font-family: ui-monospace, monospace; }
.lead { font-size: 17px; color: var(--soft); max-width: 46em; margin: 0 0 16px; }
.chips { display: flex; flex-wrap: wrap; gap: 8px; margin: 0; font-size: 13px; }
.chips span { border: 1px solid var(--line); background: var(--card); border-radius: 99px;
  padding: 3px 12px; color: var(--soft); }
.chips b { color: var(--ink); font-weight: 600; }
.note { border-left: 3px solid var(--blue); padding: 4px 14px; margin: 20px 0 0; }
section { margin-top: 32px; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 24px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: 12px; font-weight: 600; color: var(--soft);
  vertical-align: bottom; padding: 6px 14px 8px 0; border-bottom: 1px solid var(--line); }
td { padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
.wide { overflow-x: auto; }
.wide table { font-size: 13px; }
.wide th, .wide td { padding-right: 11px; }
.wide td { white-space: nowrap; }
.wide td:first-child { white-space: normal; min-width: 7em; }
.plain table { font-size: 13px; margin-top: 18px; }
.plain thead { display: none; }
.plain td:first-child { color: var(--soft); white-space: nowrap; width: 11em; }
.plain td { overflow-wrap: anywhere; }
.small { font-size: 12px; color: var(--soft); margin: 0; }
p.small { margin-top: 10px; max-width: 70em; }
.badge { display: inline-block; border-radius: 99px; padding: 2px 11px; font-size: 12.5px;
  font-weight: 600; white-space: nowrap; }
.marks { white-space: nowrap; }
.yes { color: var(--yes); background: var(--yes-bg); }
.no { color: var(--no); background: var(--no-bg); }
.open { color: var(--open); background: var(--open-bg); }
figure { margin: 0 0 26px; }
figure img { display: block; max-width: 100%; height: auto;
  background: #ffffff; border: 1px solid var(--line); border-radius: 8px; padding: 8px; }
figcaption { font-size: 13px; color: var(--soft); margin-top: 8px; max-width: 70em; }
audio { width: 190px; height: 34px; }
code { font-family: ui-monospace, monospace; font-size: 12.5px; }
ul { margin: 0; padding-left: 20px; }
@media print { section { break-inside: avoid; } }
"""
