"""Owns charges: `InvoicePaymentRequested` in, outcome events out."""
