"""What a mix of bits will cost before it is measured, and which mix is the best under a budget."""
