"""The rating studio in the browser: pages, saving, and what keeps strangers and model names out."""
