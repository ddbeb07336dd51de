"""Chat models, and what remote calls share."""
