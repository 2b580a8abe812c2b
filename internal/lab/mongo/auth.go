package mongo

import (
	"errors"

	"github.com/xdg-go/scram"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
)

// beforeLogin lists what mongod answers to a client that is not logged in.
var beforeLogin = map[string]bool{
	"hello": true, "isMaster": true, "ismaster": true, "saslStart": true, "saslContinue": true,
	"ping":      true,
	"buildInfo": true, "buildinfo": true, "endSessions": true,
}

func (s *Server) enrol() error {
	client, err := scram.SHA256.NewClient(s.o.User, s.o.Password, "")
	if err != nil {
		return err
	}
	stored := client.GetStoredCredentials(scram.KeyFactors{Salt: "a salt of the lab", Iters: 4096})
	s.users, err = scram.SHA256.NewServer(func(user string) (scram.StoredCredentials, error) {
		if user != s.o.User {
			return scram.StoredCredentials{}, errors.New("no such user")
		}
		return stored, nil
	})
	return err
}

func (c *conn) saslStart(q request) (bson.Raw, error) {
	if m, _ := q.body.Lookup("mechanism").StringValueOK(); m != "SCRAM-SHA-256" {
		return nil, refusal{334, "MechanismUnavailable", "received authentication for mechanism " + m +
			" which is not enabled"}
	}
	if c.s.users == nil {
		return nil, refusal{18, "AuthenticationFailed", "Authentication failed."}
	}
	c.login = c.s.users.NewConversation()
	return c.saslContinue(q)
}

func (c *conn) saslContinue(q request) (bson.Raw, error) {
	if c.login == nil {
		return nil, refusal{17, "ProtocolError", "No SASL session state found"}
	}
	_, payload, isBinary := q.body.Lookup("payload").BinaryOK()
	if !isBinary {
		return nil, refusal{17, "ProtocolError", "no payload"}
	}
	if len(payload) == 0 && c.login.Done() { // the empty exchange of older drivers
		return c.saslReply("", true)
	}
	answer, err := c.login.Step(string(payload))
	if err != nil {
		return nil, refusal{18, "AuthenticationFailed", "Authentication failed."}
	}
	if c.login.Valid() {
		c.user = c.login.Username()
	}
	skip, _ := q.body.Lookup("options", "skipEmptyExchange").BooleanOK()
	return c.saslReply(answer, c.login.Done() && (skip || q.name == "saslContinue"))
}

func (c *conn) saslReply(payload string, done bool) (bson.Raw, error) {
	return ok(bson.E{Key: "conversationId", Value: int32(1)}, bson.E{Key: "done", Value: done},
		bson.E{Key: "payload", Value: primitive.Binary{Data: []byte(payload)}})
}
