// hamba/avro with structs: decodes each record, sets the new fields, encodes it again. See ../run.
//
// usage: compare DATA_FOLDER SCHEMAS_FOLDER OUT_FOLDER
//
// The structs of records.go are generated from the schemas by hamba's own avrogen.
package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/hamba/avro/v2"
)

const rounds, written = 15, 2000

var segments = [...]string{"gold", "new-customer", "bargain-hunter"}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func found(number int) (segment *string, score *float64, country *string) {
	if number%4 != 0 {
		segment = &segments[number%3]
	}
	if number%5 != 0 {
		half := float64(number) * 0.5
		score = &half
	}
	fr := "FR"
	return segment, score, &fr
}

// The process's CPU time, which the collector's threads are part of, in nanoseconds.
func cpu() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func least(count int, work func()) float64 {
	best := math.Inf(1)
	for range rounds {
		before := cpu()
		work()
		best = min(best, float64(cpu()-before))
	}
	return best / float64(count)
}

func read(path string) [][]byte {
	all := must(os.ReadFile(path))
	var data [][]byte
	for len(all) > 0 {
		length := binary.LittleEndian.Uint32(all)
		data = append(data, all[4:4+length])
		all = all[4+length:]
	}
	return data
}

// Schemas of the same names live in caches of their own.
func parse(path string) avro.Schema {
	return must(avro.ParseWithCache(string(must(os.ReadFile(path))), "", &avro.SchemaCache{}))
}

func measure[T any](api avro.API, data [][]byte, before, after avro.Schema, out string, enrich func(int, *T)) string {
	decode := least(len(data), func() {
		for _, datum := range data {
			var record T
			if err := api.Unmarshal(before, datum, &record); err != nil {
				panic(err)
			}
		}
	})
	var first []byte
	whole := least(len(data), func() {
		first = first[:0]
		for number, datum := range data {
			var record T
			if err := api.Unmarshal(before, datum, &record); err != nil {
				panic(err)
			}
			enrich(number, &record)
			made := must(api.Marshal(after, &record))
			if number < written {
				first = append(first, made...)
			}
		}
	})
	if err := os.WriteFile(out, first, 0o644); err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"decode": %.1f, "enrich": %.1f}`, decode, whole)
}

func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "github.com/hamba/avro/v2" {
			return module.Version
		}
	}
	return "?"
}

func main() {
	data, schemas, out := os.Args[1], os.Args[2], os.Args[3]
	api := avro.Config{UnionResolutionError: true}.Freeze()
	api.Register("com.acme.events.CardPayment", CardPayment{})
	api.Register("com.acme.events.WalletPayment", WalletPayment{})
	api.Register("com.acme.events.VoucherPayment", VoucherPayment{})
	rich := measure(api, read(filepath.Join(data, "events.bin")),
		parse(filepath.Join(schemas, "event.avsc")), parse(filepath.Join(schemas, "event_enriched.avsc")),
		filepath.Join(out, "go-events.out"), func(number int, record *EventEnriched) {
			record.Segment, record.UserScore, record.Country = found(number)
			record.ProcessedAt = record.Ts * 1000
		})
	flat := measure(api, read(filepath.Join(data, "flats.bin")),
		parse(filepath.Join(schemas, "flat.avsc")), parse(filepath.Join(schemas, "flat_enriched.avsc")),
		filepath.Join(out, "go-flats.out"), func(number int, record *Flat) {
			record.Segment, _, _ = found(number)
			record.ProcessedAt = record.Ts * 1000
		})
	fmt.Printf(`{"stack": "%s, hamba/avro %s", "rich": %s, "flat": %s}`+"\n", runtime.Version(), version(), rich, flat)
}
