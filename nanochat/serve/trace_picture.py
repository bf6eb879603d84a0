"""A trace as one SVG: who looks at whom, how the residual stream grows, what may come next.

Called by bridge_app.py for the start page; a viewer draws its own. Every number in it is a tensor's
or a statistic's of the trace. Read: trace_picture -> heat_map -> growth -> next_tokens.
"""

from html import escape
from typing import Any

from nanochat.trace_format import BadTrace, Trace

WIDTH, SIDE, LEFT, TOP, SHOWN = 960, 380, 96, 84, 24
STYLE = """
  .paper { fill: #ffffff } text { fill: #1f2321; font: 13px system-ui, sans-serif }
  .heading { font-size: 15px; font-weight: 600 } .small { font-size: 11px; fill: #5c605b }
  .token { font: 11px ui-monospace, monospace } .cell { fill: #15803d } .void { fill: #f1eee6 }
  .bar { fill: #2563eb } .chance { fill: #7e22ce } .line { stroke: #dcd7cb }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #1e2220 } text { fill: #e9ece8 } .small { fill: #a3aba5 }
    .cell { fill: #5ccb85 } .void { fill: #2a2f2c } .bar { fill: #7aa7ff }
    .chance { fill: #c79bff } .line { stroke: #3a413d }
  }
"""


def trace_picture(answer: dict[str, Any], trace: Trace, layer: int, head: int) -> str:
    """The prompt's step of a trace. Parts that were not traced are said to be missing."""
    tokens = [piece["text"] for piece in answer["tokens"]]
    words = [" ".join(word.split()) or "·" for word in tokens]
    parts = [
        heat_map(trace, words, layer, head),
        growth(trace, LEFT + SIDE + 90),
        next_tokens(answer["next_tokens"][0], LEFT + SIDE + 90, TOP + 220),
    ]
    height = TOP + SIDE + 60
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>Trace of {len(words)} tokens, layer {layer}, head {head}</title>"
        f'<style>{STYLE}</style><rect class="paper" width="{WIDTH}" height="{height}"/>'
        f"{''.join(parts)}</svg>"
    )


def label(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(words)}</text>"


def heat_map(trace: Trace, words: list[str], layer: int, head: int) -> str:
    """Rows ask, columns are looked at; the fuller a square, the more weight."""
    out = [label(LEFT, 30, f"Who looks at whom: layer {layer}, head {head}", "heading")]
    out.append(label(LEFT, 48, "A row is a token that asks; its squares add up to one.", "small"))
    try:
        pattern = trace.tensor(f"blocks.{layer}.attn.pattern")[head]
    except (BadTrace, IndexError):
        return "".join([*out, label(LEFT, TOP + 20, "not in this trace", "small")])
    pattern = pattern[-SHOWN:, -SHOWN:].nan_to_num()
    rows, columns = words[: trace.entry(f"blocks.{layer}.attn.pattern")["shape"][2]], []
    rows = rows[-len(pattern) :]
    columns = rows[-pattern.size(1) :]
    size = SIDE / max(len(rows), 1)
    for i, row in enumerate(pattern.tolist()):
        y = TOP + i * size
        out.append(label(LEFT - 6, y + size / 2 + 4, rows[i][:11], "token", "end"))
        for j, weight in enumerate(row):
            if j > i + len(row) - len(rows):
                continue
            x, edge = LEFT + j * size, size * max(min(weight, 1.0), 0.0) ** 0.5 * 0.94
            out.append(f'<rect class="void" x="{x:.1f}" y="{y:.1f}" width="{size * 0.94:.1f}" ')
            out.append(f'height="{size * 0.94:.1f}"/>')
            shift = (size * 0.94 - edge) / 2
            out.append(f'<rect class="cell" x="{x + shift:.1f}" y="{y + shift:.1f}" ')
            out.append(f'width="{edge:.1f}" height="{edge:.1f}"><title>')
            out.append(
                f"{escape(rows[i])} looks at {escape(columns[j])}: {weight:.3f}</title></rect>"
            )
    return "".join(out)


def growth(trace: Trace, left: float) -> str:
    """The root mean square of the residual stream after each half of each block."""
    out = [label(left, 30, "How large the residual stream is", "heading")]
    out.append(label(left, 48, "Root mean square, from the start to the end", "small"))
    found = []
    for entry in trace.manifest["tensors"]:
        short = entry["name"].rpartition(".")[2]
        if entry["step"] == 0 and (entry["name"] == "x0" or short in ("resid_mid", "resid_post")):
            found.append((entry["name"], entry["stats"]["rms"]))
    if not found:
        return "".join([*out, label(left, TOP + 20, "not in this trace", "small")])
    most, width = max(rms for _, rms in found) or 1.0, (WIDTH - left - 30) / len(found)
    for i, (name, rms) in enumerate(found):
        tall = 110 * rms / most
        x, y = left + i * width, TOP + 120 - tall
        out.append(f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width * 0.8:.1f}" ')
        out.append(f'height="{tall:.1f}"><title>{name}: {rms:.3g}</title></rect>')
    out.append(label(left, TOP + 140, f"{found[0][0]} {found[0][1]:.3g}", "small"))
    out.append(label(WIDTH - 30, TOP + 140, f"{found[-1][0]} {found[-1][1]:.3g}", "small", "end"))
    return "".join(out)


def next_tokens(row: list[dict[str, Any]], left: float, top: float) -> str:
    """The likeliest next tokens as bars, as SVG."""
    out = [label(left, top, "What may come next", "heading")]
    for i, piece in enumerate(row[:7]):
        y = top + 14 + i * 24
        text = piece["text"] if piece["text"].strip() else repr(piece["text"])
        out.append(label(left + 84, y + 14, text[:12], "token", "end"))
        width = (WIDTH - left - 190) * piece["chance"]
        out.append(f'<rect class="chance" x="{left + 92:.1f}" y="{y:.1f}" height="18" ')
        out.append(f'width="{max(width, 1):.1f}"/>')
        out.append(label(left + 98 + width, y + 14, f"{piece['chance']:.1%}", "small"))
    return "".join(out)
