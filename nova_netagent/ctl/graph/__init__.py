"""The live chains as a picture: which are drawn (picture), where (layout), and how (svg, dot)."""
