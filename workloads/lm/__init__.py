"""Small language models that ship with macloom, and the code that trained them."""
