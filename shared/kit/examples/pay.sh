#!/usr/bin/env bash
# Issue an invoice and pay it: a complete sender for Remit, in the shell with amqp-tools.
#
#     apt install amqp-tools jq libcrypt-jwt-perl
#     REMIT_URL=amqp://USER:PASSWORD@HOST:5672/%2F ./pay.sh INV-1 pm_card_visa
#     REMIT_URL=... CARD_PUBLIC_KEYS_FILE=keys.json ./pay.sh INV-2 card
#
# It ends with 0 if the invoice was paid. amqp-tools cannot say who sends (`user_id`), so this works where Remit runs with SENDERS=trusted.
# Elsewhere no answer comes: nobody vouches that the queue for it is ours. Nor do they wait for the broker's confirm: the answer is the confirm.
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 INVOICE TOKEN|card" >&2; exit 2; }
invoice=$1 method=$2

# The password must not be on a command line, where everybody on this machine can read it: it goes to the tools in a file.
[[ $REMIT_URL =~ ^amqp://([^:@]+):([^@]+)@([^:/]+):?([0-9]*)/?([^?]*) ]] || { echo "REMIT_URL is not amqp://USER:PASSWORD@HOST:PORT/VHOST" >&2; exit 2; }
decoded() { printf '%b' "${1//%/\\x}"; }
user=$(decoded "${BASH_REMATCH[1]}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf 'username:%s\npassword:%s\n' "$user" "$(decoded "${BASH_REMATCH[2]}")" >"$work/login" # mktemp's folder is ours alone
vhost=$(decoded "${BASH_REMATCH[5]}")
broker=(--server "${BASH_REMATCH[3]}" --port "${BASH_REMATCH[4]:-5672}" --vhost "${vhost:-/}" --authfile "$work/login")

# The names of our queues begin with the name of our user at the broker, and a dot.
queue=$user.pay-with-shell

new_id() { cat /proc/sys/kernel/random/uuid; }

# A message as CloudEvents JSON: its name, and its data. It is made once: whenever we are in doubt we send it again, with the same id.
command() {
  jq -cn --arg id "$(new_id)" --arg type "remit.invoice.$1.v1" --arg invoice "$invoice" --argjson data "$2" '{specversion: "1.0",
    id: $id, type: $type, source: "/shop", data: ({invoice_id: $invoice, amount_minor: 12500, currency: "EUR"} + $data)}'
}

# region card
# The card on stdin, for one payment, under the newest of the published keys: the last one.
encrypt() {
  key=$(jq -c '.keys[-1]' "$CARD_PUBLIC_KEYS_FILE") payment_id=$1 perl -MCrypt::JWT=encode_jwt -MJSON::PP=decode_json -0777 -ne '
    my $key = decode_json($ENV{key});
    my %header = (kid => $key->{kid}, crit => ["remit.payment_id"], "remit.payment_id" => $ENV{payment_id});
    print encode_jwt(payload => $_, key => $key, alg => "RSA-OAEP-256", enc => "A256GCM", extra_headers => \%header)'
}
# endregion

payment_id=$(new_id)
if [ "$method" = card ]; then # a test card: a real one comes from your customer, and is stored nowhere
  jwe=$(printf '{"number":"4242424242424242","exp_month":12,"exp_year":2034}' | encrypt "$payment_id")
  pays=$(jq -cn --arg jwe "$jwe" '{kind: "encrypted_card", jwe: $jwe}')
else
  pays=$(jq -cn --arg token "$method" '{kind: "token", token: $token}')
fi

# A program that must survive its own crash stores these two before it sends them.
issue=$(command IssueInvoice '{"customer_id": "C-1"}')
pay=$(command PayInvoice "$(jq -cn --arg payment "$payment_id" --argjson method "$pays" '{payment_id: $payment, method: $method}')")

# Events come to a file, one a line. These tools bind only a queue that ends with its consumer: what is told while the connection is lost is
# missed. A program that must hear everything has a durable queue, as in the other languages.
listen() {
  amqp-consume "${broker[@]}" --queue "$queue.$$.events" --exchange invoice.events --routing-key 'remit.invoice.#' awk 1 >>"$work/events" &
  listener=$!
}
listen
trap 'kill "$listener" 2>/dev/null || :; rm -rf "$work"' EXIT
outcome() {
  jq -c --arg payment "$payment_id" 'select((.type | test("[.](InvoicePaid|InvoicePaymentFailed)[.]")) and .data.payment_id == $payment)' "$work/events"
}

# Answers come to a queue of their own, which waits for us. Take the next one, or fail if none comes within this many seconds.
next() { timeout "$1" amqp-consume "${broker[@]}" --queue "$queue.answers" --prefetch-count 1 --count 1 cat 2>/dev/null; }

# Send a command until it is answered: it or its answer can be lost, and a command that comes again gets the same answer.
ask() {
  local id type event answer
  id=$(jq -r .id <<<"$1") type=$(jq -r .type <<<"$1")
  while true; do
    amqp-publish "${broker[@]}" --exchange invoice.commands.entry --routing-key "$type" --persistent \
      --content-type application/cloudevents+json --reply-to "$queue.answers" --body "$1" || { echo "in doubt, so it is sent again"; sleep 1; continue; }
    while event=$(next 5) && [ -n "$event" ]; do
      answer=$(jq -r --arg id "$id" 'select(.data.command_id == $id) | .data | "\(.answer) \(.reason // "")"' <<<"$event")
      [ -z "$answer" ] || { echo "$type $answer"; [ "${answer%% *}" = accepted ]; return; }
    done
    echo "no answer yet, so it is sent again. Where Remit does not run with SENDERS=trusted none will come" >&2
  done
}

amqp-declare-queue "${broker[@]}" --queue "$queue.answers" --durable >/dev/null
ask "$issue" # by now the listener is bound: an answer takes a round trip through Remit
ask "$pay"
for ((waited = 1; ; waited++)); do
  [ -z "$(outcome)" ] || break
  kill -0 "$listener" 2>/dev/null || listen
  ((waited % 600)) || echo "no outcome yet: it will come, perhaps after a person has looked; never pay again meanwhile"
  sleep 0.1
done
outcome | head -n 1 | jq -r '.data | if .receipt_number then "paid, receipt \(.receipt_number)" else "not charged: \(.outcome), \(.reason)\n" | halt_error(1) end'
