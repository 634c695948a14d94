-- The ledger. Its readers are independent of the sandbox: the audit opens this file with SQL of its own.
-- Deliberately without UNIQUE on charges.payment_intent: a double charge must be visible to an auditor, not hidden by a constraint.
-- Money is integer minor units with a lower-case currency, as at Stripe. `created` and `at` are Unix seconds.

CREATE TABLE IF NOT EXISTS payment_methods (
    id TEXT PRIMARY KEY,
    brand TEXT NOT NULL,
    last4 TEXT NOT NULL,
    exp_month INTEGER NOT NULL,
    exp_year INTEGER NOT NULL,
    behaves_like TEXT NOT NULL,          -- the test token; the card number itself is stored nowhere
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS customers (
    id TEXT PRIMARY KEY,
    created INTEGER NOT NULL
) STRICT;

-- a method that belongs to a customer: it can be used often, and with that customer only
CREATE TABLE IF NOT EXISTS attached_methods (
    payment_method TEXT PRIMARY KEY,
    customer TEXT NOT NULL
) STRICT;

-- a method without a customer: it can be used for one payment only
CREATE TABLE IF NOT EXISTS used_methods (
    payment_method TEXT PRIMARY KEY,
    payment_intent TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS payment_intents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    payment_method TEXT,
    method_attached INTEGER NOT NULL,    -- 0 after a decline: Stripe then shows payment_method as null
    metadata TEXT NOT NULL,              -- JSON; Remit puts payment_id and invoice_id here
    status TEXT NOT NULL,
    latest_charge TEXT,
    last_error TEXT,                     -- JSON
    confirm_attempts INTEGER NOT NULL DEFAULT 0,
    looks INTEGER NOT NULL DEFAULT 0,    -- retrievals since its status became processing
    healed INTEGER NOT NULL DEFAULT 0,   -- 1: a person made this payment answer again
    canceled_at INTEGER,
    created INTEGER NOT NULL
) STRICT;

-- what a payment says besides its amount
CREATE TABLE IF NOT EXISTS intent_details (
    payment_intent TEXT PRIMARY KEY,
    customer TEXT,
    description TEXT,
    statement_descriptor_suffix TEXT
) STRICT;

CREATE INDEX IF NOT EXISTS payment_intents_by_time ON payment_intents (created, seq);

-- one row per capture
CREATE TABLE IF NOT EXISTS charges (
    id TEXT PRIMARY KEY,
    payment_intent TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    payment_method TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;

CREATE INDEX IF NOT EXISTS charges_by_payment ON charges (payment_intent);

CREATE TABLE IF NOT EXISTS refunds (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    payment_intent TEXT NOT NULL,
    charge TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    status TEXT NOT NULL,                -- succeeded | pending | failed
    failure_reason TEXT,
    looks INTEGER NOT NULL DEFAULT 0,
    created INTEGER NOT NULL
) STRICT;

CREATE INDEX IF NOT EXISTS refunds_by_payment ON refunds (payment_intent);

-- one row per charge that the customer disputes
CREATE TABLE IF NOT EXISTS disputes (
    id TEXT PRIMARY KEY,
    charge TEXT NOT NULL,
    payment_intent TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    status TEXT NOT NULL,                -- warning_needs_response | warning_closed | needs_response | won | lost
    created INTEGER NOT NULL
) STRICT;

CREATE INDEX IF NOT EXISTS disputes_by_payment ON disputes (payment_intent);

-- what a refund says besides its amount
CREATE TABLE IF NOT EXISTS refund_details (
    refund TEXT PRIMARY KEY,
    metadata TEXT NOT NULL,              -- JSON; Remit puts refund_id and payment_id here
    pending_reason TEXT
) STRICT;

-- how many requests for refunds of a payment were acted upon
CREATE TABLE IF NOT EXISTS refund_requests (
    payment_intent TEXT PRIMARY KEY,
    requests INTEGER NOT NULL
) STRICT;

-- how often a payment was looked for while the index lagged
CREATE TABLE IF NOT EXISTS searches (
    payment_intent TEXT PRIMARY KEY,
    searches INTEGER NOT NULL
) STRICT;

-- every confirm and cancel that arrived, whatever its result
CREATE TABLE IF NOT EXISTS confirms (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,                  -- confirm | cancel
    payment_intent TEXT NOT NULL,
    idempotency_key TEXT,
    result TEXT NOT NULL                 -- what the client saw, then what it did: "200 captured", "hang captured", "429 nothing"
) STRICT;

CREATE INDEX IF NOT EXISTS confirms_by_payment ON confirms (payment_intent);

-- one row per use of a key; a key used again after it expired has two rows
CREATE TABLE IF NOT EXISTS idempotency_keys (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL,
    path TEXT NOT NULL,
    parameters_sha256 TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    replays INTEGER NOT NULL DEFAULT 0,
    mismatches INTEGER NOT NULL DEFAULT 0,
    created INTEGER NOT NULL
) STRICT;

CREATE INDEX IF NOT EXISTS idempotency_keys_by_key ON idempotency_keys (key, seq);
