"""How the report looks: on a screen, on a phone, on paper."""

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1rem; max-width: 76rem; color: #1a1a1a;
  background: #fff; font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { margin-top: 3rem; border-bottom: 2px solid #1a1a1a; font-size: 1.4rem; }
h3 { margin-top: 2rem; font-size: 1.15rem; }
h1, h2, h3, p, li, figcaption, caption { overflow-wrap: anywhere; }
p, li { max-width: 46rem; }
a { color: #00508a; }
.scroll { max-width: 100%; margin: 0.5rem 0 1rem; overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid #00508a; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { padding: 0.3rem 0; font-weight: 600; text-align: left; }
th, td {
  padding: 0.2rem 0.6rem; border-bottom: 1px solid #d5d5d5; text-align: right;
  vertical-align: top; white-space: nowrap; font-size: 0.9rem;
}
thead th { border-bottom: 1px solid #1a1a1a; }
thead th[scope=colgroup] { border-left: 1px solid #b5b5b5; text-align: left; }
thead th[scope=colgroup], th[scope=row] { overflow-wrap: anywhere; }
.text { text-align: left; }
tbody th {
  position: sticky; left: 0; background: #fff; font-weight: 500;
}
td.text {
  min-width: 7rem; max-width: 26rem; white-space: normal;
  overflow-wrap: anywhere;
}
.notes { color: #444; font-size: 0.9rem; }
.state {
  padding: 0.5rem 0.8rem; border-left: 4px solid #b34700; background: #fdf3ec;
}
.columns { display: flex; flex-wrap: wrap; gap: 0 3rem; }
.columns > div { min-width: 0; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; }
figcaption { max-width: 46rem; color: #444; font-size: 0.9rem; }
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .scroll { overflow: visible; }
  th, td { padding: 0.1rem 0.35rem; font-size: 7.5pt; }
  tbody th { position: static; }
  h2 { break-before: page; }
  h1 + p + nav + section h2 { break-before: auto; }
  h2, h3, caption { break-after: avoid; }
  tr, figure { break-inside: avoid; }
  figure img { max-height: 120mm; width: auto; }
}
"""
