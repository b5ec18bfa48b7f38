"""Gradio's theme in the page's colors and typefaces, which are CSS variables in `ui/static/colors.css`."""

import gradio as gr

# Settings of Gradio's theme that take a color, which `light-dark()` in the variable makes right for both schemes.
COLORS = {
    "background": ["body_background_fill"],
    "surface": ["input_background_fill"],
    "text": ["body_text_color", "block_title_text_color", "button_secondary_text_color"],
    "muted": ["body_text_color_subdued", "block_info_text_color"],
    "border": ["input_border_color", "checkbox_label_border_color"],
    "accent": [
        "checkbox_label_border_color_selected", "checkbox_background_color_selected", "checkbox_border_color_selected",
        "button_primary_background_fill", "button_primary_border_color", "button_primary_border_color_hover",
        "input_border_color_focus", "loader_color", "slider_color",
    ],
    "accent-hover": ["button_primary_background_fill_hover"],
    "on-accent": ["button_primary_text_color"],
    "option-hover": ["checkbox_label_background_fill_hover"],
    "option-selected": ["checkbox_label_background_fill_selected"],
    "button": ["button_secondary_background_fill"],
    "button-hover": ["button_secondary_background_fill_hover"],
}  # fmt: skip


def theme() -> gr.themes.Base:
    """One typeface for the page, one accent color, light and dark."""
    colors = {name: f"var(--app-{color})" for color, names in COLORS.items() for name in names}
    colors |= {"block_background_fill": "transparent", "checkbox_label_background_fill": "transparent"}
    return gr.themes.Base(
        neutral_hue="stone", font=["var(--app-sans)"], font_mono=["var(--app-mono)"], radius_size="md"
    ).set(
        **colors,
        **{f"{name}_dark": color for name, color in colors.items()},
        color_accent="var(--app-accent)",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_title_text_weight="600",
        block_padding="0px",
        input_border_width="1px",
        input_radius="8px",
        checkbox_label_border_width="1px",
    )  # fmt: skip
