// Issue an invoice and pay it: a complete sender for Remit, in Go with amqp091-go.
//
//	go get github.com/rabbitmq/amqp091-go    (or, with Debian's packages golang-go and golang-github-rabbitmq-amqp091-go-dev:
//	export GO111MODULE=off GOPATH=/usr/share/gocode)
//	REMIT_URL=amqp://USER:PASSWORD@HOST:5672/%2F go run pay.go INV-1 pm_card_visa
//	REMIT_URL=... CARD_PUBLIC_KEYS_FILE=keys.json go run pay.go INV-2 card
//
// It ends with 0 if the invoice was paid.
package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

type object = map[string]any

var (
	invoice, user, queue string
	// What was told about us: answers by the id of their command, the outcome by the id of the payment.
	heard = map[string]object{}
)

func newID() string {
	b := make([]byte, 16)
	must(rand.Read(b))
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// A message as CloudEvents JSON. It is made once: whenever we are in doubt we send it again, with the same id.
func command(name string, more object) object {
	data := object{"invoice_id": invoice, "amount_minor": 12500, "currency": "EUR"}
	for key, value := range more {
		data[key] = value
	}
	return object{"specversion": "1.0", "id": newID(), "type": "remit.invoice." + name + ".v1", "source": "/shop", "data": data}
}

// region card

// The card for this one payment, under the newest of the published keys: the last one. This is a compact JWE (RFC 7516).
func encrypt(card object, paymentID string) string {
	var published struct{ Keys []struct{ Kid, N, E string } }
	check(json.Unmarshal(must(os.ReadFile(os.Getenv("CARD_PUBLIC_KEYS_FILE"))), &published))
	jwk := published.Keys[len(published.Keys)-1]
	code := base64.RawURLEncoding
	key := &rsa.PublicKey{
		N: new(big.Int).SetBytes(must(code.DecodeString(jwk.N))),
		E: int(new(big.Int).SetBytes(must(code.DecodeString(jwk.E))).Int64()),
	}
	const binding = "remit.payment_id"
	head := code.EncodeToString(must(json.Marshal(object{
		"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": jwk.Kid, "crit": []string{binding}, binding: paymentID,
	})))
	contentKey, iv := make([]byte, 32), make([]byte, 12)
	must(rand.Read(contentKey))
	must(rand.Read(iv))
	aead := must(cipher.NewGCM(must(aes.NewCipher(contentKey))))
	sealed := aead.Seal(nil, iv, must(json.Marshal(card)), []byte(head))
	end := len(sealed) - aead.Overhead() // Go writes the tag behind the text
	wrapped := must(rsa.EncryptOAEP(sha256.New(), rand.Reader, key, contentKey, nil))
	parts := []string{head}
	for _, part := range [][]byte{wrapped, iv, sealed[:end], sealed[end:]} {
		parts = append(parts, code.EncodeToString(part))
	}
	return strings.Join(parts, ".")
}

// endregion

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pay INVOICE TOKEN|card")
		os.Exit(2)
	}
	url := os.Getenv("REMIT_URL")
	user = must(amqp.ParseURI(url)).Username
	invoice = os.Args[1]
	// Answers and events come to one queue of ours. Its name begins with the name of our user at the broker, and a dot.
	queue = user + ".pay-with-go"

	paymentID := newID()
	pays := object{"kind": "token", "token": os.Args[2]}
	if os.Args[2] == "card" { // a test card: a real one comes from your customer, and is stored nowhere
		card := object{"number": "4242424242424242", "exp_month": 12, "exp_year": 2034}
		pays = object{"kind": "encrypted_card", "jwe": encrypt(card, paymentID)}
	}
	// A program that must survive its own crash stores these two before it sends them.
	issue := command("IssueInvoice", object{"customer_id": "C-1"})
	pay := command("PayInvoice", object{"payment_id": paymentID, "method": pays})

	for heard[paymentID] == nil {
		err := converse(url, issue, pay, paymentID)
		if errors.Is(err, amqp.ErrCredentials) {
			fail(err.Error())
		}
		if err != nil { // a lost connection, a nack, a message that no queue took
			fmt.Println("in doubt, so all is sent again:", err)
			time.Sleep(time.Second)
		}
	}
	outcome := heard[paymentID]
	if outcome["receipt_number"] == nil {
		fail(fmt.Sprint("not charged: ", outcome["outcome"], ", ", outcome["reason"]))
	}
	fmt.Println("paid, receipt", outcome["receipt_number"])
}

// All of it. Whatever breaks, it is begun again from the start: each command is done once.
func converse(url string, issue, pay object, paymentID string) error {
	connection, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if _, err = channel.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		return err
	}
	for _, name := range []string{"InvoicePaid", "InvoicePaymentFailed"} {
		if err = channel.QueueBind(queue, "remit.invoice."+name+".v1.#", "invoice.events", false, nil); err != nil {
			return err
		}
	}
	if err = channel.Confirm(false); err != nil {
		return err
	}
	confirmed := channel.NotifyPublish(make(chan amqp.Confirmation, 1))
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))
	incoming, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	for _, event := range []object{issue, pay} {
		if err = ask(channel, incoming, confirmed, returned, event); err != nil {
			return err
		}
	}
	for {
		outcome, err := waitFor(paymentID, time.Minute, incoming)
		if outcome != nil || err != nil {
			return err
		}
		fmt.Println("no outcome yet: it will come, perhaps after a person has looked; never pay again meanwhile")
	}
}

// Send a command until it is answered: an answer can be lost, and a command that comes again gets the same one.
func ask(
	channel *amqp.Channel, incoming <-chan amqp.Delivery, confirmed <-chan amqp.Confirmation, returned <-chan amqp.Return, event object,
) error {
	id, kind := event["id"].(string), event["type"].(string)
	var answer object
	for answer == nil {
		patience, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err := channel.PublishWithContext(patience, "invoice.commands.entry", kind, true, false, amqp.Publishing{
			ContentType:  "application/cloudevents+json",
			MessageId:    id,   // so that we are answered even if the body cannot be read
			UserId:       user, // the broker vouches for it: our invoices are ours alone
			ReplyTo:      queue,
			DeliveryMode: amqp.Persistent,
			Body:         must(json.Marshal(event)),
		})
		if err != nil {
			return err
		}
		select {
		case confirm, open := <-confirmed:
			if !open || !confirm.Ack {
				return errors.New("the broker did not take the command")
			}
		case <-patience.Done():
			return errors.New("the broker did not confirm the command")
		}
		select { // what no queue takes comes back before it is confirmed
		case back := <-returned:
			return fmt.Errorf("no queue takes the command: %s", back.ReplyText)
		default:
		}
		if answer, err = waitFor(id, 5*time.Second, incoming); err != nil {
			return err
		}
	}
	if answer["answer"] == "rejected" {
		fail(fmt.Sprint(kind, " rejected ", answer["reason"], ": ", answer["detail"]))
	}
	fmt.Println(kind, answer["answer"])
	return nil
}

// What was told about a command or payment; nil if nothing was in time.
func waitFor(about string, within time.Duration, incoming <-chan amqp.Delivery) (object, error) {
	late := time.After(within)
	for heard[about] == nil {
		select {
		case <-late:
			return nil, nil
		case message, open := <-incoming:
			if !open {
				return nil, errors.New("the connection was lost")
			}
			var event struct {
				Type string
				Data object
			}
			check(json.Unmarshal(message.Body, &event))
			switch event.Type {
			case "remit.invoice.CommandAnswered.v1":
				heard[event.Data["command_id"].(string)] = event.Data
			case "remit.invoice.InvoicePaid.v1", "remit.invoice.InvoicePaymentFailed.v1":
				heard[event.Data["payment_id"].(string)] = event.Data
			}
			if err := message.Ack(false); err != nil { // a program with a database stores it first
				return nil, err
			}
		}
	}
	return heard[about], nil
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fail(err.Error())
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
