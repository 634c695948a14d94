// Issue an invoice and pay it: a complete sender for Remit, in JavaScript with amqplib. Node 18 or newer.
//
//     npm install amqplib
//     REMIT_URL=amqp://USER:PASSWORD@HOST:5672/%2F node pay.mjs INV-1 pm_card_visa
//     REMIT_URL=... CARD_PUBLIC_KEYS_FILE=keys.json node pay.mjs INV-2 card
//
// It ends with 0 if the invoice was paid.

import { constants, createCipheriv, createPublicKey, publicEncrypt, randomBytes, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import amqp from "amqplib";

const url = process.env.REMIT_URL;
const [invoice, method] = process.argv.slice(2);
if (!method) {
  console.error("usage: pay.mjs INVOICE TOKEN|card");
  process.exit(2);
}
const user = decodeURIComponent(new URL(url).username);
// Answers and events come to one queue of ours. Its name begins with the name of our user at the broker, and a dot.
const queue = `${user}.pay-with-node`;

// A message as CloudEvents JSON. It is made once: whenever we are in doubt we send it again, with the same id.
const command = (name, data) => ({
  specversion: "1.0",
  id: randomUUID(),
  type: `remit.invoice.${name}.v1`,
  source: "/shop",
  data: { invoice_id: invoice, amount_minor: 12500, currency: "EUR", ...data },
});

// region card
// The card for this one payment, under the newest of the published keys: the last one. This is a compact JWE (RFC 7516).
function encrypt(card, paymentId) {
  const jwk = JSON.parse(readFileSync(process.env.CARD_PUBLIC_KEYS_FILE)).keys.at(-1);
  const binding = "remit.payment_id";
  const header = { alg: "RSA-OAEP-256", enc: "A256GCM", kid: jwk.kid, crit: [binding], [binding]: paymentId };
  const head = Buffer.from(JSON.stringify(header)).toString("base64url");
  const contentKey = randomBytes(32);
  const iv = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", contentKey, iv).setAAD(Buffer.from(head));
  const text = Buffer.concat([cipher.update(JSON.stringify(card)), cipher.final()]);
  const key = { key: createPublicKey({ key: jwk, format: "jwk" }), padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" };
  const parts = [publicEncrypt(key, contentKey), iv, text, cipher.getAuthTag()];
  return [head, ...parts.map((part) => part.toString("base64url"))].join(".");
}
// endregion

const paymentId = randomUUID();
const pays = method === "card" // a test card: a real one comes from your customer, and is stored nowhere
  ? { kind: "encrypted_card", jwe: encrypt({ number: "4242424242424242", exp_month: 12, exp_year: 2034 }, paymentId) }
  : { kind: "token", token: method };

// A program that must survive its own crash stores these two before it sends them.
const issue = command("IssueInvoice", { customer_id: "C-1" });
const pay = command("PayInvoice", { payment_id: paymentId, method: pays });
const heard = new Map(); // what was told about us: answers by the id of their command, the outcome by the id of the payment

class Refused extends Error {}

// Publish, and wait until the broker has it. Throws if it has not.
async function publish(channel, event) {
  await new Promise((resolve, reject) => {
    const properties = {
      contentType: "application/cloudevents+json",
      messageId: event.id, // so that we are answered even if the body cannot be read
      userId: user, // the broker vouches for it: our invoices are ours alone
      replyTo: queue,
      persistent: true,
      mandatory: true,
    };
    const body = Buffer.from(JSON.stringify(event));
    channel.publish("invoice.commands.entry", event.type, body, properties, (error) => (error ? reject(error) : resolve()));
  });
}

// What was told about a command or payment; undefined if nothing was in time, or the connection was lost.
async function waitFor(about, seconds, channel) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end && !heard.has(about); ) {
    if (channel.lost) throw channel.lost;
    await pause(20);
  }
  return heard.get(about);
}

// Send a command until it is answered: an answer can be lost, and a command that comes again gets the same one.
async function ask(channel, event) {
  let answer;
  while (!answer) {
    await Promise.race([publish(channel, event), pause(10_000)]); // a confirm that never comes is a doubt as well
    answer = await waitFor(event.id, 5, channel);
  }
  console.log(event.type, answer.answer, answer.reason ?? "");
  if (answer.answer === "rejected") throw new Refused(`${answer.reason}: ${answer.detail}`);
}

function take(channel, message) {
  const event = JSON.parse(message.content);
  if (event.type === "remit.invoice.CommandAnswered.v1") heard.set(event.data.command_id, event.data);
  if (/[.](InvoicePaid|InvoicePaymentFailed)[.]v1$/.test(event.type)) heard.set(event.data.payment_id, event.data);
  channel.ack(message); // a program with a database stores it first
}

// All of it. Whatever breaks, it is begun again from the start: each command is done once.
async function converse(connection) {
  const channel = await connection.createConfirmChannel();
  const lost = (error) => (channel.lost = error ?? new Error("the connection was closed"));
  connection.on("error", lost).on("close", lost);
  channel.on("error", lost).on("return", () => lost(new Error("no queue takes the command")));
  await channel.assertQueue(queue, { durable: true });
  for (const name of ["InvoicePaid", "InvoicePaymentFailed"]) {
    await channel.bindQueue(queue, "invoice.events", `remit.invoice.${name}.v1.#`);
  }
  await channel.consume(queue, (message) => take(channel, message));
  await ask(channel, issue);
  await ask(channel, pay);
  while (!(await waitFor(paymentId, 60, channel))) {
    console.log("no outcome yet: it will come, perhaps after a person has looked; never pay again meanwhile");
  }
}

while (!heard.has(paymentId)) {
  let connection;
  try {
    connection = await amqp.connect(url);
    await converse(connection);
  } catch (error) {
    if (error instanceof Refused || /ACCESS.REFUSED/i.test(error.message)) {
      console.error(error.message);
      process.exit(1);
    }
    console.log("in doubt, so all is sent again:", error.message); // a lost connection, a nack, a message that no queue took
    await pause(1000);
  } finally {
    await connection?.close().catch(() => {});
  }
}

const outcome = heard.get(paymentId);
if (!outcome.receipt_number) {
  console.error(`not charged: ${outcome.outcome}, ${outcome.reason}`);
  process.exit(1);
}
console.log("paid, receipt", outcome.receipt_number);
