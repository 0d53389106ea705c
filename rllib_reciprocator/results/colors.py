"""Colors of plots."""

# Colors of lines and bars, in the order of use.
PALETTE = (
    "#d64541", "#3468c0", "#2e8b57", "#e69f00", "#7b4fa6", "#00a0aa", "#785a3c", "#5a5a5a", "#c2478f", "#8aa400",
)  # fmt: skip
