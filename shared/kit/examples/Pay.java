// Issue an invoice and pay it: a complete sender for Remit, in Java with RabbitMQ's client. Java 17 or newer.
//
//     apt install default-jdk-headless librabbitmq-client-java libgoogle-gson-java
//     jars=/usr/share/java/amqp-client.jar:/usr/share/java/gson.jar:/usr/share/java/slf4j-api.jar
//     REMIT_URL=amqp://USER:PASSWORD@HOST:5672/%2F java -cp $jars Pay.java INV-1 pm_card_visa
//     REMIT_URL=... CARD_PUBLIC_KEYS_FILE=keys.json java -cp $jars Pay.java INV-2 card
//
// It ends with 0 if the invoice was paid.

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Envelope;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.SecureRandom;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.RSAPublicKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeoutException;
import javax.crypto.Cipher;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.OAEPParameterSpec;
import javax.crypto.spec.PSource;
import javax.crypto.spec.SecretKeySpec;

public class Pay {
    static final Gson JSON = new Gson();
    static final byte[] NOTHING = {};
    // What was told about us: answers by the id of their command, the outcome by the id of the payment.
    static final Map<String, JsonObject> heard = new ConcurrentHashMap<>();
    static String invoice, user, queue;

    // A message as CloudEvents JSON. It is made once: whenever we are in doubt we send it again, with the same id.
    static Map<String, Object> command(String name, Map<String, Object> more) {
        Map<String, Object> data = new java.util.TreeMap<>(more);
        data.putAll(Map.of("invoice_id", invoice, "amount_minor", 12500, "currency", "EUR"));
        return Map.of("specversion", "1.0", "id", UUID.randomUUID().toString(), "type", "remit.invoice." + name + ".v1",
                "source", "/shop", "data", data);
    }

    // region card
    // The card for this one payment, under the newest of the published keys: the last one. This is a compact JWE (RFC 7516).
    static String encrypt(Map<String, Object> card, String paymentId) throws Exception {
        Path file = Path.of(System.getenv("CARD_PUBLIC_KEYS_FILE"));
        JsonArray keys = JsonParser.parseString(Files.readString(file)).getAsJsonObject().getAsJsonArray("keys");
        JsonObject jwk = keys.get(keys.size() - 1).getAsJsonObject();
        Base64.Encoder encoder = Base64.getUrlEncoder().withoutPadding();
        String binding = "remit.payment_id";
        String header = encoder.encodeToString(JSON.toJson(Map.of("alg", "RSA-OAEP-256", "enc", "A256GCM",
                "kid", jwk.get("kid").getAsString(), "crit", new String[] {binding}, binding, paymentId)).getBytes("UTF-8"));
        byte[] contentKey = new byte[32], iv = new byte[12];
        new SecureRandom().nextBytes(contentKey);
        new SecureRandom().nextBytes(iv);
        Cipher rsa = Cipher.getInstance("RSA/ECB/OAEPPadding");
        rsa.init(Cipher.ENCRYPT_MODE, KeyFactory.getInstance("RSA").generatePublic(new RSAPublicKeySpec(number(jwk, "n"), number(jwk, "e"))),
                // Java would take SHA-1 for the mask: both hashes have to be SHA-256 (RFC 7518, 4.3).
                new OAEPParameterSpec("SHA-256", "MGF1", MGF1ParameterSpec.SHA256, PSource.PSpecified.DEFAULT));
        Cipher aes = Cipher.getInstance("AES/GCM/NoPadding");
        aes.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(contentKey, "AES"), new GCMParameterSpec(128, iv));
        aes.updateAAD(header.getBytes("US-ASCII"));
        byte[] sealed = aes.doFinal(JSON.toJson(card).getBytes("UTF-8"));
        int end = sealed.length - 16; // Java writes the tag behind the text
        return String.join(".", header, encoder.encodeToString(rsa.doFinal(contentKey)), encoder.encodeToString(iv),
                encoder.encodeToString(Arrays.copyOf(sealed, end)), encoder.encodeToString(Arrays.copyOfRange(sealed, end, sealed.length)));
    }

    static BigInteger number(JsonObject jwk, String name) {
        return new BigInteger(1, Base64.getUrlDecoder().decode(jwk.get(name).getAsString()));
    }
    // endregion

    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 2) {
            System.err.println("usage: Pay INVOICE TOKEN|card");
            System.exit(2);
        }
        ConnectionFactory broker = new ConnectionFactory();
        broker.setUri(System.getenv("REMIT_URL"));
        broker.setAutomaticRecoveryEnabled(false); // after a loss all is begun again below
        user = broker.getUsername();
        invoice = arguments[0];
        // Answers and events come to one queue of ours. Its name begins with the name of our user at the broker, and a dot.
        queue = user + ".pay-with-java";

        String paymentId = UUID.randomUUID().toString();
        Map<String, Object> pays = arguments[1].equals("card") // a test card: a real one comes from your customer, and is stored nowhere
                ? Map.of("kind", "encrypted_card", "jwe",
                        encrypt(Map.of("number", "4242424242424242", "exp_month", 12, "exp_year", 2034), paymentId))
                : Map.of("kind", "token", "token", arguments[1]);
        // A program that must survive its own crash stores these two before it sends them.
        Map<String, Object> issue = command("IssueInvoice", Map.of("customer_id", "C-1"));
        Map<String, Object> pay = command("PayInvoice", Map.of("payment_id", paymentId, "method", pays));

        while (!heard.containsKey(paymentId)) {
            try (Connection connection = broker.newConnection()) {
                converse(connection.createChannel(), issue, pay, paymentId);
            } catch (AuthenticationFailureException refused) {
                fail(refused.getMessage());
            } catch (IOException | TimeoutException | ShutdownSignalException doubt) { // a lost connection, a nack, a late confirm
                System.out.println("in doubt, so all is sent again: " + doubt);
                Thread.sleep(1000);
            }
        }
        JsonObject outcome = heard.get(paymentId);
        if (!outcome.has("receipt_number")) {
            fail("not charged: " + outcome.get("outcome") + ", " + outcome.get("reason"));
        }
        System.out.println("paid, receipt " + outcome.get("receipt_number").getAsString());
        System.exit(0);
    }

    // All of it. Whatever breaks, it is begun again from the start: each command is done once.
    static void converse(Channel channel, Map<String, Object> issue, Map<String, Object> pay, String paymentId) throws Exception {
        channel.queueDeclare(queue, true, false, false, null);
        for (String name : new String[] {"InvoicePaid", "InvoicePaymentFailed"}) {
            channel.queueBind(queue, "invoice.events", "remit.invoice." + name + ".v1.#");
        }
        channel.confirmSelect();
        channel.addReturnListener((code, text, exchange, key, properties, body) -> System.out.println("no queue takes the command: " + text));
        channel.basicConsume(queue, false, new DefaultConsumer(channel) {
            @Override
            public void handleDelivery(String tag, Envelope delivery, AMQP.BasicProperties properties, byte[] body) throws IOException {
                JsonObject event = JsonParser.parseString(new String(body, "UTF-8")).getAsJsonObject();
                JsonObject data = event.getAsJsonObject("data");
                switch (event.get("type").getAsString()) {
                    case "remit.invoice.CommandAnswered.v1" -> heard.put(data.get("command_id").getAsString(), data);
                    case "remit.invoice.InvoicePaid.v1", "remit.invoice.InvoicePaymentFailed.v1" ->
                        heard.put(data.get("payment_id").getAsString(), data);
                    default -> { }
                }
                channel.basicAck(delivery.getDeliveryTag(), false); // a program with a database stores it first
            }
        });
        ask(channel, issue);
        ask(channel, pay);
        while (waitFor(paymentId, 60, channel) == null) {
            System.out.println("no outcome yet: it will come, perhaps after a person has looked; never pay again meanwhile");
        }
    }

    // Send a command until it is answered: an answer can be lost, and a command that comes again gets the same one.
    static void ask(Channel channel, Map<String, Object> event) throws Exception {
        String id = (String) event.get("id"), type = (String) event.get("type");
        AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder()
                .contentType("application/cloudevents+json")
                .messageId(id) // so that we are answered even if the body cannot be read
                .userId(user) // the broker vouches for it: our invoices are ours alone
                .replyTo(queue)
                .deliveryMode(2) // persistent
                .build();
        JsonObject answer = null;
        while (answer == null) {
            channel.basicPublish("invoice.commands.entry", type, true, properties, JSON.toJson(event).getBytes("UTF-8"));
            channel.waitForConfirmsOrDie(10_000);
            answer = waitFor(id, 5, channel);
        }
        boolean rejected = answer.get("answer").getAsString().equals("rejected");
        System.out.println(type + " " + answer.get("answer").getAsString() + (rejected ? " " + answer.get("reason") : ""));
        if (rejected) {
            fail(answer.get("reason") + ": " + answer.get("detail"));
        }
    }

    // What was told about a command or payment; null if nothing was in time.
    static JsonObject waitFor(String about, int seconds, Channel channel) throws Exception {
        for (long end = System.nanoTime() + seconds * 1_000_000_000L; System.nanoTime() < end && !heard.containsKey(about); Thread.sleep(20)) {
            if (!channel.isOpen()) {
                throw new IOException("the channel was closed: " + channel.getCloseReason());
            }
        }
        return heard.get(about);
    }

    static void fail(String why) {
        System.err.println(why);
        System.exit(1);
    }
}
