"""int8 against int8: networks, ours and the peers' made from the same inputs, and timed in the same rounds."""
