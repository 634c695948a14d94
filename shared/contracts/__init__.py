"""The public language: one module per owning service, a catalogue of wire names, JSON Schemas."""
