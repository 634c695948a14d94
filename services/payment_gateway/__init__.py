"""The payment-gateway service. It owns charges: it takes `InvoicePaymentRequested`, and publishes the outcome of each payment."""
