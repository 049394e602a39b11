"""Training of Quarry's models: plain scripts, one stage each. No pipeline framework is imported here."""
