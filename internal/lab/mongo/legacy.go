//lint:file-ignore SA1019 drivers say hello in the form that is deprecated for everything else

package mongo

import (
	"errors"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"
	"go.mongodb.org/mongo-driver/x/mongo/driver/wiremessage"
)

// legacy answers OP_QUERY.
func (c *conn) legacy(id int32, body []byte) error {
	_, rem, _ := wiremessage.ReadQueryFlags(body)
	_, rem, _ = wiremessage.ReadQueryFullCollectionName(rem)
	_, rem, _ = wiremessage.ReadQueryNumberToSkip(rem)
	_, rem, _ = wiremessage.ReadQueryNumberToReturn(rem)
	doc, _, ok := wiremessage.ReadQueryQuery(rem)
	if !ok {
		return errors.New("malformed OP_QUERY")
	}
	reply, err := c.run(request{body: bson.Raw(doc), db: "admin"})
	if err != nil {
		return err
	}
	at, out := wiremessage.AppendHeaderStart(c.out[:0], wiremessage.NextRequestID(), id,
		wiremessage.OpReply)
	out = wiremessage.AppendReplyFlags(out, 0)
	out = wiremessage.AppendReplyCursorID(out, 0)
	out = wiremessage.AppendReplyStartingFrom(out, 0)
	out = wiremessage.AppendReplyNumberReturned(out, 1)
	out = append(out, reply...)
	return c.send(bsoncore.UpdateLength(out, at, int32(len(out))))
}
