"""The only style of the page, and the policy that allows it and nothing else."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Final

__all__ = ["POLICY", "STYLE"]

# Greys are at least 4.5:1 where they are text (WCAG 2, 1.4.3), and parts of a bar are kept apart by gaps, not by hue.
STYLE: Final = """
:root{color-scheme:light dark;--ground:#fff;--panel:#f4f6f8;--ink:#1b2128;--soft:#55606c;--line:#d5dbe1;
--link:#0a5ea8;
--self:#0b6bb8;--inter:#d9820f;--own:#8b97a4;--zero:#bcc5ce;--absent:#e3e7eb;--swapped:#a855a0;--merged:#0a7d55;
--warn:#fff3d6;--edge:#b45309;--on:#1b2128}
@media (prefers-color-scheme:dark){:root{--ground:#11161b;--panel:#1a2128;--ink:#e6ebf0;--soft:#9fabb7;--line:#2f3943;
--link:#74b9f5;--self:#4da3f0;--inter:#eda23a;--own:#6c7885;--zero:#47525d;--absent:#2a323b;--swapped:#cf8bce;
--merged:#3fc68f;--warn:#33270c;--edge:#e0a13c;--on:#11161b}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:100%/1.45 system-ui,"Segoe UI",Roboto,"Noto Sans",
"DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:anywhere;-webkit-text-size-adjust:100%}
header,main,footer{max-width:76rem;margin:0 auto;padding:0 1rem}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:.2rem 1.2rem;padding-top:1rem}
h1{font-size:1.35rem;margin:0}h1 span{font-weight:400;color:var(--soft)}
h2{font-size:1.1rem;margin:0 0 .6rem}h3{font-size:1rem;margin:1rem 0 .4rem}
a{color:var(--link)}p{margin:.4rem 0;max-width:72ch}header p,.soft,figcaption,small{color:var(--soft)}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:0;padding:0}
nav a{display:inline-block;padding:.25rem 0}
section{margin:1.5rem 0 2.2rem}
.notes{list-style:none;margin:1rem 0 1.4rem;padding:0}
.notes li{background:var(--warn);border-left:.3rem solid var(--edge);border-radius:.2rem;padding:.5rem .8rem;
margin:.4rem 0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.6rem;margin:0 0 .6rem}
.figures div{background:var(--panel);border-radius:.4rem;padding:.6rem .8rem;border-top:.2rem solid var(--line)}
.figures .self{border-color:var(--self)}.figures .inter{border-color:var(--inter)}
.figures .zero{border-color:var(--zero)}
.figures .merged{border-color:var(--merged)}.figures .bad{border-color:var(--edge)}
dt{font-size:.85rem;color:var(--soft)}dd{margin:0}dd strong{display:block;font-size:1.3rem;line-height:1.3}
dd{font-size:.85rem}
svg{display:block;overflow:hidden}text{font-size:.75rem;fill:var(--ink)}
.bar{border-radius:.15rem;background:var(--panel)}.bar rect{stroke:var(--ground)}
.duplicate{fill:var(--self)}.shared{fill:var(--inter)}.own{fill:var(--own)}.zeros{fill:var(--zero)}
.absent{fill:var(--absent)}.swapped{fill:var(--swapped)}.attainable{fill:var(--own)}.potential{fill:var(--absent)}
.have{fill:var(--merged)}
.from-process{fill:var(--self)}.from-file{fill:var(--inter)}.from-kernel{fill:var(--merged)}.from-free{fill:var(--zero)}
.from-unknown{fill:var(--absent)}#sources summary .bar{margin-top:.3rem}
#sources .columns{align-items:start}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1rem;margin:.3rem 0 .7rem;padding:0;font-size:.85rem}
.legend svg{display:inline-block;vertical-align:-.1em;margin-right:.35rem;border-radius:.1rem}
table{border-collapse:collapse;width:100%;font-size:.92rem}
caption{text-align:left;color:var(--soft);padding-bottom:.4rem}
th,td{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
thead th{font-weight:600;font-size:.85rem;color:var(--soft);vertical-align:bottom}
th[scope=row]{font-weight:600}.guests td{overflow-wrap:normal}.number{text-align:right;white-space:nowrap}
small{display:block;font-weight:400}
.mark{display:inline-block;color:var(--ink);background:var(--warn);border:1px solid var(--edge);border-radius:.2rem;
padding:0 .3rem;font-size:.78rem;font-weight:400;margin:.1rem .3rem .1rem 0}
th[scope=row]{min-width:6rem}thead th{overflow-wrap:normal}thead .number{white-space:normal}
th.time{white-space:nowrap}
.guests th[scope=row]{width:24%}.guests .states{width:30%;padding-top:.55rem}
figure{margin:0}figcaption{font-size:.9rem;margin-top:.4rem}
.grid{stroke:var(--line)}
.chart text{fill:var(--ink);paint-order:stroke;stroke:var(--ground);stroke-width:4px;stroke-linejoin:round}
.area{stroke:none}
.line{fill:none;stroke:var(--merged);stroke-width:2.5;stroke-dasharray:7 3;vector-effect:non-scaling-stroke}
.line.halo{stroke:var(--ground);stroke-width:6;stroke-dasharray:none;stroke-opacity:.75}
.cell{fill:var(--inter)}.nothing{fill:var(--panel)}.c1{fill-opacity:.18}.c2{fill-opacity:.38}.c3{fill-opacity:.58}
.c4{fill-opacity:.79}.c5{fill-opacity:1}.within{text-anchor:middle}.c4+.within,.c5+.within{fill:var(--on)}
.columns{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:2rem}
details{margin:.6rem 0}summary{cursor:pointer;padding:.3rem 0;color:var(--link)}
.terms dt{color:var(--ink);font-weight:600;font-size:.92rem;margin-top:.5rem}
.terms dd{font-size:.92rem;max-width:72ch}
footer{color:var(--soft);font-size:.9rem}footer nav{border-top:1px solid var(--line);padding:1rem 0}
a:focus-visible,summary:focus-visible{outline:3px solid var(--link);outline-offset:2px}
@media (max-width:60rem){.columns{grid-template-columns:minmax(0,1fr);gap:1rem}}
@media (max-width:52rem){.figures{grid-template-columns:repeat(2,minmax(0,1fr))}
.figures div:first-child:nth-last-child(odd){grid-column:1/-1}
table{font-size:.85rem}th,td{padding-right:.4rem}th[scope=row]{min-width:4.8rem}
th.time{min-width:0}.guests,.guests tbody,.guests tr,.guests th,.guests td,.guests caption{display:block}
.guests thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.guests tr{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:.3rem .8rem;padding:.7rem 0;
border-bottom:1px solid var(--line)}
.guests th,.guests td,.guests .number{border:0;padding:0;text-align:left;white-space:normal}
.guests th[scope=row]{grid-column:1/3;width:auto}.guests .states{grid-column:1/-1;width:auto}
.guests td[data-label]::before{content:attr(data-label);display:block;font-size:.78rem;color:var(--soft)}
.guests td.size{text-align:right}.guests td.size::before{content:none}}
@media (forced-colors:active){svg{forced-color-adjust:none}}
@media print{details:not([open])>*{display:block}}
""".strip()

_HASH: Final = b64encode(sha256(STYLE.encode()).digest()).decode()
POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
"""For the page itself: with it, not even a style could be slipped in by way of a name."""
