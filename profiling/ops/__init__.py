"""`ops`: the ops of a train graph: what each is for, takes and keeps alive."""
