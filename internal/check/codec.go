package check

import (
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers what Codec wraps
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Codec is grpc's own codec for protobuf, but for the two moments at which grpc would answer a Check with an error, which is
// no verdict: a request that cannot be decoded becomes an empty one, which has no path and is denied for it, and an
// answer that cannot be encoded becomes a denial.
type Codec struct{ encoding.CodecV2 }

// NewCodec makes a Codec, for grpc.ForceServerCodecV2.
func NewCodec() Codec { return Codec{encoding.GetCodecV2("proto")} }

// Unmarshal implements encoding.CodecV2.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	if in, ok := v.(*authv3.CheckRequest); ok && err != nil {
		proto.Reset(in)
		return nil
	}
	return err
}

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	data, err := c.CodecV2.Marshal(v)
	if _, ok := v.(*authv3.CheckResponse); ok && err != nil {
		fault := deny(Internal, nil)
		return c.CodecV2.Marshal(new(answers).denied(new(request), &fault))
	}
	return data, err
}
