"""How the page looks: one typeface for the page, a book face for the text, one accent colour; light and dark."""

import gradio as gr

# The typefaces are those of the visitor's own machine, so the page asks no other host for anything.
FONT = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
BOOK = "'Iowan Old Style', 'Palatino Linotype', Palatino, Charter, 'Source Serif 4', 'DejaVu Serif', Georgia, serif"

# Each colour in the light and in the dark. The accent, a brick red, has a contrast of 6:1 on the paper, 8:1 in the dark.
ACCENT = ("#a8421a", "#f09a72")
PAPER = ("#fbfaf8", "#171513")
SHEET = ("#ffffff", "#211e1b")
INK = ("#292420", "#f2eee9")
SOFT = ("#6b635b", "#b5ada4")
LINE = ("#d9d4cc", "#46403a")


def theme() -> gr.themes.Base:
    def both(name: str, colours: tuple[str, str]) -> dict[str, str]:
        return {name: colours[0], f"{name}_dark": colours[1]}

    return gr.themes.Base(
        neutral_hue="stone",
        font=FONT,
        font_mono=["ui-monospace", "SF Mono", "Menlo", "DejaVu Sans Mono", "monospace"],
        radius_size="md",
    ).set(
        **both("body_background_fill", PAPER),
        **both("body_text_color", INK),
        **both("body_text_color_subdued", SOFT),
        **both("block_background_fill", ("transparent", "transparent")),
        **both("block_info_text_color", SOFT),
        **both("block_title_text_color", INK),
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_title_text_weight="600",
        block_padding="0px",
        color_accent=ACCENT[0],
        input_border_width="1px",
        input_radius="8px",
        **both("input_background_fill", SHEET),
        **both("input_border_color", LINE),
        checkbox_label_border_width="1px",
        **both("checkbox_label_background_fill", ("transparent", "transparent")),
        **both("checkbox_label_background_fill_hover", ("#f3efe9", "#26221f")),
        **both("checkbox_label_background_fill_selected", ("#faf0ea", "#2e2420")),
        **both("checkbox_label_border_color", LINE),
        **both("checkbox_label_border_color_selected", ACCENT),
        **both("checkbox_background_color_selected", ACCENT),
        **both("checkbox_border_color_selected", ACCENT),
        **both("button_primary_background_fill", ACCENT),
        **both("button_primary_background_fill_hover", ("#873413", "#f5b496")),
        **both("button_primary_border_color", ACCENT),
        **both("button_primary_border_color_hover", ACCENT),
        **both("input_border_color_focus", ACCENT),
        **both("loader_color", ACCENT),
        **both("button_primary_text_color", ("#ffffff", "#24130b")),
        **both("button_secondary_background_fill", ("#f0ebe4", "#2b2723")),
        **both("button_secondary_background_fill_hover", ("#e6dfd5", "#38332e")),
        **both("button_secondary_text_color", INK),
        **both("slider_color", ACCENT),
    )


CSS = f"""
.gradio-container {{ --accent: {ACCENT[0]};
  max-width: 1180px !important; margin: 0 auto; padding: clamp(14px, 3vw, 32px) !important; }}
.dark .gradio-container, .gradio-container.dark {{ --accent: {ACCENT[1]}; }}
.gradio-container .fillable {{ padding: 0 !important; }}
footer .divider {{ display: none; }}
.tabitem {{ padding: 6px 0 0 !important; }}
.tabs button.selected {{ color: var(--accent) !important; }}
.tabs button.selected::after {{ background-color: var(--accent) !important; }}
:focus-visible {{ outline: 2px solid var(--accent) !important; outline-offset: 2px; }}
#head h1 {{ font-size: clamp(1.4rem, 3vw, 1.7rem); font-weight: 700; letter-spacing: -0.01em; margin: 0 0 6px; }}
#head p {{ font-size: 1.05rem; line-height: 1.5; margin: 0; max-width: 46em; color: var(--body-text-color-subdued); }}

/* Controls left, text right; on a phone: prompt, buttons, text, settings. */
#write {{ display: grid; gap: 22px 44px; align-items: start; grid-template: "ask sheet" auto "settings sheet" 1fr / 1fr 2fr; }}
#ask {{ grid-area: ask; }} #sheet {{ grid-area: sheet; }} #settings {{ grid-area: settings; }}
#ask, #settings, #sheet {{ min-width: 0; gap: 14px; }}
#settings, #settings .form, #morph .form {{ gap: 20px; }}
#settings .block {{ overflow: visible !important; }}
.form {{ background: none !important; border: 0 !important; box-shadow: none !important; overflow: visible !important; }}
@media (max-width: 760px) {{ #write {{ grid-template: "ask" "sheet" "settings" / minmax(0, 1fr); gap: 20px; }} }}

#prompt textarea {{ font-size: 1rem; }}
#chips, #buttons, #copies {{ display: flex; flex-flow: row wrap; gap: 8px; }}
#chips button, #copies button {{ flex: 0 0 auto; min-width: 0; width: auto; min-height: 34px; padding: 5px 12px; font-weight: 400;
  border-radius: 999px; }}
#chips button {{ font-family: {BOOK}; }}
#buttons button {{ flex: 1 1 0; min-width: 84px; min-height: 44px; padding: 8px 4px; }}
#models .wrap {{ gap: 8px; flex-wrap: nowrap; flex-direction: column; max-height: 31.5rem; overflow-y: auto; padding: 2px; }}
.models label {{ box-shadow: none; align-items: flex-start; padding: 10px 12px; }} #models label {{ width: 100%; }}
.models label span {{ white-space: pre-line; font-size: 0.86rem; line-height: 1.45; color: var(--body-text-color-subdued); }}
.models label span::first-line {{ font-size: 1rem; font-weight: 600; color: var(--body-text-color); }}
.models input {{ margin-top: 4px; }}
#spaces .wrap {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 8px; }}
.dark #settings input[type=range], .dark #morph input[type=range] {{ --neutral-200: #4a443e; }}
#seed-row {{ align-items: end; }}

/* A long text scrolls inside its sheet and stays at its end, where it is being written. */
#text .sheet {{ display: flex; flex-direction: column-reverse; max-height: 72vh; overflow: auto; box-sizing: border-box;
  padding: 26px 30px; border-radius: 10px; border: 1px solid var(--input-border-color);
  background: var(--input-background-fill); }}
#text .sheet > div {{ flex: none; min-height: 18em; margin-bottom: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 1.16rem/1.62 {BOOK}; color: var(--body-text-color); }}
#text .prompt {{ color: #78716c; }} .dark #text .prompt {{ color: #a8a29e; }}
#text .prompt s {{ opacity: 0.7; }}
#text .writing > div::after {{ content: ""; display: inline-block; width: 0.5em; height: 1em; margin-left: 2px;
  vertical-align: -0.12em; background: var(--accent); }}
@media (max-width: 760px) {{
  #text .sheet {{ padding: 16px 18px; }} #text .sheet > div {{ min-height: 11em; font-size: 1.06rem; }} }}
#status p, #notice p {{ margin: 0; font-size: 0.92rem; line-height: 1.5; color: var(--body-text-color-subdued); }}
#notice:not(:has(p)) {{ display: none; }}
#status p {{ min-height: 1.5em; }}
#notice p {{ padding: 8px 12px; border-left: 3px solid var(--accent); color: var(--body-text-color); }}
#morph {{ gap: 14px; }} #morph .about p {{ margin: 0; max-width: 46em; color: var(--body-text-color-subdued); }}
#morph h2 {{ font-size: 1.1rem; margin: 8px 0 0; }}
#morph .lines {{ list-style: none; margin: 0; padding: 14px 18px; border-radius: 10px; overflow-wrap: anywhere;
  border: 1px solid var(--input-border-color); background: var(--input-background-fill); font: 1.1rem/1.6 {BOOK}; }}
#morph .lines b {{ color: var(--accent); }} #morph .lines i, #morph p {{ color: var(--body-text-color-subdued); }}
#drawn .names {{ columns: 2; }}
#about p, #hub-told p {{ margin: 0; font-size: 0.92rem; line-height: 1.5; color: var(--body-text-color-subdued); }}
#hub > button, #more > button, #use > button {{ font-weight: 600; }}
#use {{ margin-top: 6px; padding: 14px 0 0 !important; border-top: 1px solid var(--input-border-color) !important; }}
#use p {{ margin: 4px 0 8px; color: var(--body-text-color-subdued); }}
#use [role=tab] {{ padding: 6px 9px; }}
#files ul {{ list-style: none; margin: 0; padding: 0; line-height: 1.9; color: var(--body-text-color-subdued); }}
#files a {{ color: var(--accent); text-decoration: underline; }}
#foot p {{ margin: 0; text-align: center; font-size: 0.85rem; color: var(--body-text-color-subdued); }}
footer {{ margin-top: 8px; }}
"""
