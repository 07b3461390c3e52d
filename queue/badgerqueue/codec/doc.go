// Package codec is how the fields of records and backups are written as bytes, and
// read again: numbers, strings with their length, lists of header fields, packed documents.
//
// It promises that reading never leaves the bytes it was given, whatever they are, and
// that header fields and documents read exactly as they were. It knows no records. It is tested by
// itself, and by the fuzz target of badgerqueue's records.
package codec
