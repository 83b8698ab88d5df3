"""The comparison as an SVG: one panel a measure, one bar an engine, the machine's limit as a line. No dependencies.

The colours follow the reader's light or dark mode, with a background of their own, so that it is legible on any page.
"""

from xml.sax.saxutils import escape

from . import report, workload

WIDTH, COLUMNS, GAP, MARGIN = 960, 2, 24, 20
BAR, HEAD, LABEL, VALUE = 20, 46, 148, 58

LIGHT = {"page": "#ffffff", "text": "#1f2328", "faint": "#59636e", "axis": "#d1d9e0", "ours": "#0969da", "llama": "#bc6c25",
         "vino": "#8250a8", "limit": "#cf222e"}
DARK = {"page": "#0d1117", "text": "#e6edf3", "faint": "#9198a1", "axis": "#3d444d", "ours": "#4493f8", "llama": "#e09f5a",
        "vino": "#b987e0", "limit": "#ff7b72"}


def style():
    def colours(c):
        fills = "".join(f" .{k} {{ fill: {c[k]}; }}" for k in ("page", "ours", "llama", "vino"))
        return (f"text {{ fill: {c['text']}; }} text.faint {{ fill: {c['faint']}; }}{fills} .axis {{ stroke: {c['axis']}; }} "
                f".limit {{ stroke: {c['limit']}; }}")

    return (f"svg {{ font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; }} text {{ font-size: 12px; }} "
            f"text.title {{ font-size: 13.5px; font-weight: 600; }} text.faint {{ font-size: 11px; }} "
            f"text.bold {{ font-weight: 600; }} .limit {{ stroke-width: 2; stroke-dasharray: 3 2; }}\n{colours(LIGHT)}\n"
            f"@media (prefers-color-scheme: dark) {{ {colours(DARK)} }}")


CLASSES = {"nano-vLLM": "ours", "llama.cpp": "llama", "OpenVINO GenAI": "vino"}


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def panel(rows, x, y, width):
    """Bars of one measure. A limit line marks what the machine allows for that bar's weights."""
    first = rows[0]
    title = first["title"] if first["scenario"].shape is workload.QWEN3 else "SmolLM2 Q4_1: " + first["title"]
    parts = [text(x, y + 16, title, "title"),
             text(x, y + 32, "tokens/s, more is better; dashes: the machine's limit for these weights", "faint")]
    room = width - LABEL - VALUE
    largest = max(max(r["value"], min(r["limit"] or 0, 4 * r["value"])) for r in rows)
    for i, row in enumerate(rows):
        top = y + HEAD + i * BAR
        length = room * row["value"] / largest
        ours = row["engine"] == "nano-vLLM"
        parts.append(text(x + LABEL - 8, top + 13, f"{row['engine']} {row['weights']}", "bold" if ours else "", "end"))
        parts.append(f'<rect x="{x + LABEL:.1f}" y="{top + 2:.1f}" width="{max(length, 1):.1f}" height="{BAR - 5}" rx="2" '
                     f'class="{CLASSES[row["engine"]]}"/>')
        at = x + LABEL + length
        if row["limit"] and row["limit"] <= largest:
            limit = x + LABEL + room * row["limit"] / largest
            parts.append(f'<line x1="{limit:.1f}" x2="{limit:.1f}" y1="{top:.1f}" y2="{top + BAR - 1:.1f}" class="limit"/>')
            if at <= limit < at + 44:  # the figure goes behind the line
                at = limit
        parts.append(text(at + 6, top + 13, report.number(row["value"], "tokens/s"), "bold" if ours else ""))
    parts.append(f'<line x1="{x + LABEL}" x2="{x + LABEL}" y1="{y + HEAD}" y2="{y + HEAD + len(rows) * BAR}" class="axis"/>')
    return "\n".join(parts), HEAD + len(rows) * BAR + GAP


def draw(results):
    panels, seen = [], {}
    for row in report.rows(results):
        if row["metric"].unit != "tokens/s":
            continue
        key = (row["scenario"].key, row["metric"].key)
        if key not in seen:
            seen[key] = []
            panels.append(seen[key])
        seen[key].append(row)
    width = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
    bottoms, body = [MARGIN] * COLUMNS, []
    for rows in panels:
        column = bottoms.index(min(bottoms))
        drawing, height = panel(rows, MARGIN + column * (width + GAP), bottoms[column], width)
        body.append(drawing)
        bottoms[column] += height
    height = max(bottoms) + 24
    machine = results["machine"]
    body.append(text(MARGIN, height - 14, f"{machine['processor']}, threads: {machine['threads']}", "faint"))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
            f'role="img" aria-label="nano-vLLM beside llama.cpp and OpenVINO GenAI">\n<style>\n{style()}\n</style>\n'
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>\n' + "\n".join(body) + "\n</svg>\n")
