"""Words about cells: names of types, texts, markers, and questions in plain language."""
