"""What was said and how: transcribers, style recognisers, the evidence that they make, the audit."""
