package mongodb_test

import (
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/internal/lab"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

func TestSeveralDatabases(t *testing.T) {
	t.Parallel()
	s := smallMongo(t, mongolab.Options{})
	s.Insert("tyk_pump", "aggregates", doc(t, bson.D{{Key: "_id", Value: 1}}))
	set := takeMongo(t, &mongodb.Source{Server: uri(s), Databases: []string{"tyk_analytics",
		"tyk_pump"}, Exclude: []string{"*.keys"}})
	var names []string
	for _, c := range details(t, set).Collections {
		names = append(names, c.DB+"."+c.Name)
	}
	if got := fmt.Sprint(names); got != "[tyk_analytics.apis tyk_pump.aggregates]" {
		t.Errorf("collections %s", got)
	}
	to := mongoServer(t, mongolab.Options{})
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
		Server: uri(to)}); err != nil {
		t.Error(err)
	}
}

// Documents as large as a server takes pass, whole and alone in their batch.
func TestLargeDocuments(t *testing.T) {
	t.Parallel()
	from := mongoServer(t, mongolab.Options{})
	size := 2 << 20 // more than a batch and a chunk have
	if lab.IsLong() {
		size = 16<<20 - 100 // the largest that there is
	}
	for i, n := range []int{100, size, 100} {
		from.Insert("tyk_analytics", "large", doc(t, bson.D{{Key: "_id", Value: i}, {Key: "data",
			Value: make([]byte, n)}}))
	}
	set := takeMongo(t, &mongodb.Source{Server: uri(from), Plain: true})
	to := mongoServer(t, mongolab.Options{})
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
		Server: uri(to)}); err != nil {
		t.Fatal(err)
	}
	sameServers(t, from, to, "tyk_analytics", "tyk_analytics")
}
