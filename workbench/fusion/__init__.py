"""One network out of several of the same form: their channels put in one order, their weights averaged."""
