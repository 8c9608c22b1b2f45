"""What loss a recipe, a size or an amount of data reaches, from fitted curves."""
