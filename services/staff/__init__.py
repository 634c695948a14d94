"""The staff service. It owns what people work with: dead letters, cases of payments in doubt, the journal of their actions."""
