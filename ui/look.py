"""How the page looks: one typeface for the page, a book face for the text, one accent colour; light and dark."""

import gradio as gr

# The typefaces are those of the visitor's own machine, so the page asks no other host for anything.
FONT = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
BOOK = "'Iowan Old Style', 'Palatino Linotype', Palatino, Charter, 'Source Serif 4', 'DejaVu Serif', Georgia, serif"

ACCENT, ACCENT_DARK = "#a8421a", "#f09a72"  # a warm brick red, 6:1 on white; lighter in the dark, 8:1


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=gr.themes.Color(
            "#fdf5f1", "#fae6dc", "#f5cbb8", ACCENT_DARK, "#e27a4c", "#c9592a", ACCENT, "#873413", "#692910", "#4d1f0d", "#33150a"
        ),
        neutral_hue="stone",
        font=FONT,
        font_mono=["ui-monospace", "SF Mono", "Menlo", "DejaVu Sans Mono", "monospace"],
        radius_size="md",
    ).set(
        body_background_fill="#fbfaf8",
        body_background_fill_dark="#171513",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_title_text_weight="600",
        block_padding="0px",
        body_text_color="#292420",
        body_text_color_dark="#f2eee9",
        body_text_color_subdued="#6b635b",
        body_text_color_subdued_dark="#b5ada4",
        block_info_text_color="#6b635b",
        block_info_text_color_dark="#b5ada4",
        block_title_text_color="#292420",
        block_title_text_color_dark="#f2eee9",
        input_border_width="1px",
        input_radius="8px",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_hover="#f3efe9",
        checkbox_label_background_fill_hover_dark="#26221f",
        checkbox_label_background_fill_selected="#faf0ea",
        checkbox_label_background_fill_selected_dark="#2e2420",
        checkbox_label_border_width="1px",
        checkbox_label_border_color="#d9d4cc",
        checkbox_label_border_color_dark="#46403a",
        checkbox_label_border_color_selected=ACCENT,
        checkbox_label_border_color_selected_dark=ACCENT_DARK,
        checkbox_background_color_selected=ACCENT,
        checkbox_background_color_selected_dark=ACCENT_DARK,
        checkbox_border_color_selected=ACCENT,
        checkbox_border_color_selected_dark=ACCENT_DARK,
        button_secondary_background_fill="#f0ebe4",
        button_secondary_background_fill_hover="#e6dfd5",
        button_secondary_background_fill_dark="#2b2723",
        button_secondary_background_fill_hover_dark="#38332e",
        button_secondary_text_color="#292420",
        button_secondary_text_color_dark="#f2eee9",
        input_background_fill="#ffffff",
        input_background_fill_dark="#211e1b",
        input_border_color="#d9d4cc",
        input_border_color_dark="#46403a",
        button_primary_background_fill=ACCENT,
        button_primary_background_fill_hover="#873413",
        button_primary_background_fill_dark=ACCENT_DARK,
        button_primary_background_fill_hover_dark="#f5b496",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#24130b",
        slider_color=ACCENT,
        slider_color_dark=ACCENT_DARK,
    )


CSS = f"""
.gradio-container {{ max-width: 1180px !important; margin: 0 auto; padding: clamp(14px, 3vw, 32px) !important; }}
#head h1 {{ font-size: 1.7rem; font-weight: 700; letter-spacing: -0.01em; margin: 0 0 6px; }}
#head p {{ font-size: 1.05rem; line-height: 1.5; margin: 0; max-width: 46em; color: var(--body-text-color-subdued); }}

/* Controls left, text right; on a phone: prompt, buttons, text, settings. */
#write {{ display: grid; gap: 22px 44px; align-items: start; grid-template: "ask sheet" auto "settings sheet" 1fr / 1fr 2fr; }}
#ask {{ grid-area: ask; }} #sheet {{ grid-area: sheet; }} #settings {{ grid-area: settings; }}
#ask, #settings, #sheet {{ min-width: 0; gap: 14px; }}
#settings, #settings .form {{ gap: 20px; }}
.form {{ background: none !important; border: 0 !important; box-shadow: none !important; overflow: visible !important; }}
.gradio-container .fillable {{ padding: 0 !important; }}
footer .divider {{ display: none; }}
.tabitem {{ padding: 6px 0 0 !important; }}
@media (max-width: 760px) {{
  #write {{ grid-template: "ask" "sheet" "settings" / minmax(0, 1fr); gap: 20px; }}
  #head h1 {{ font-size: 1.4rem; }} #head p {{ font-size: 1rem; }}
}}

#chips, #buttons, #copies {{ display: flex; flex-flow: row wrap; gap: 8px; }}
#chips button, #copies button {{ flex: 0 0 auto; min-width: 0; width: auto; font-weight: 400; border-radius: 999px; }}
#chips button {{ padding: 5px 12px; font-family: {BOOK}; }}
#buttons button {{ flex: 1 1 0; min-width: 84px; min-height: 44px; padding: 8px 4px; }}
#models .wrap {{ gap: 8px; }}
#models label {{ box-shadow: none; align-items: flex-start; width: 100%; padding: 10px 12px; }}
#models label span {{ white-space: pre-line; font-size: 0.86rem; line-height: 1.45; color: var(--body-text-color-subdued); }}
#models label span::first-line {{ font-size: 1rem; font-weight: 600; color: var(--body-text-color); }}
#models input {{ margin-top: 4px; }}

#text .sheet {{
  font-family: {BOOK}; font-size: 1.16rem; line-height: 1.62; white-space: pre-wrap; overflow-wrap: anywhere;
  min-height: 22em; padding: 26px 30px; border-radius: 10px; border: 1px solid var(--input-border-color);
  background: var(--input-background-fill); color: var(--body-text-color);
}}
#text .prompt {{ color: #78716c; }} .dark #text .prompt {{ color: #a8a29e; }}
#text .prompt s {{ opacity: 0.7; }}
#text .writing::after {{ content: ""; display: inline-block; width: 0.5em; height: 1em; margin-left: 2px;
  vertical-align: -0.12em; background: {ACCENT}; }}
.dark #text .writing::after {{ background: {ACCENT_DARK}; }}
@media (max-width: 760px) {{ #text .sheet {{ min-height: 12em; padding: 16px 18px; font-size: 1.06rem; }} }}
#status, #notice {{ font-size: 0.92rem; line-height: 1.5; color: var(--body-text-color-subdued); }}
#notice p {{ margin: 0; padding: 8px 12px; border-left: 3px solid {ACCENT}; color: var(--body-text-color); }}
.dark #notice p {{ border-color: {ACCENT_DARK}; }}
#status p {{ margin: 0; min-height: 1.5em; }}
#settings .block {{ overflow: visible !important; }} #prompt textarea {{ font-size: 1rem; }}
#chips button, #copies button {{ min-height: 34px; }}
#seed-row {{ align-items: end; }}
footer {{ margin-top: 20px; }}
:focus-visible {{ outline: 2px solid {ACCENT} !important; outline-offset: 2px; }}
.dark :focus-visible {{ outline-color: {ACCENT_DARK} !important; }}
"""
