package check

import (
	"context"
	"sync"
	"sync/atomic"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers what Codec wraps
	"google.golang.org/grpc/mem"
)

// Codec is grpc's own codec for protobuf, but for Checks: their messages are read and written in wire form, without being decoded
// into, or encoded from, anything. Nor can they fail here, which grpc would answer with an error, and that is no verdict: a message
// that is no CheckRequest is denied for it, and no answer is written that nobody could read.
type Codec struct{ encoding.CodecV2 }

// NewCodec makes a Codec, for grpc.ForceServerCodecV2.
func NewCodec() Codec { return Codec{encoding.GetCodecV2("proto")} }

// Unmarshal implements encoding.CodecV2.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	w, ok := v.(*work)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if len(data) == 1 {
		w.buffer = data[0]
		w.buffer.Ref() // grpc frees its own reference now
	} else {
		w.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
	}
	return nil
}

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if response, ok := v.(mem.Buffer); ok {
		return mem.BufferSlice{response}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Service is the ext_authz service. Each Check is answered by the Server that is in use when it comes, from its beginning to its
// end, so that another may be put to use at any time and no request notices.
type Service struct{ current atomic.Pointer[Server] }

// NewService makes a Service that uses s.
func NewService(s *Server) *Service {
	service := new(Service)
	service.Use(s)
	return service
}

// Use has s answer what comes from now on.
func (s *Service) Use(server *Server) {
	server.observer.inUse()
	s.current.Store(server)
}

// Register adds the service to a grpc server, which must have Codec.
func (s *Service) Register(registrar grpc.ServiceRegistrar) { registrar.RegisterService(&service, s) }

// service is authv3.Authorization_ServiceDesc with a handler for Codec.
var service = grpc.ServiceDesc{
	ServiceName: authv3.Authorization_ServiceDesc.ServiceName,
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Check",
		Handler: func(s any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return s.(*Service).current.Load().handle(ctx, receive)
		},
	}},
	Metadata: authv3.Authorization_ServiceDesc.Metadata,
}

// handle answers a Check. Its error is only ever that no message came: a panic, wherever it was, is a denial, since grpc would let it
// end the process.
func (s *Server) handle(ctx context.Context, receive func(any) error) (answer mem.Buffer, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.observer.panicked(p)
			answer, err = mem.SliceBuffer(s.fault), nil
		}
	}()
	w := s.work.Get().(*work)
	defer s.release(w)
	if err := receive(w); err != nil {
		return nil, err
	}
	response := responses.Get(0)
	*response = s.check(ctx, w, w.buffer.ReadOnlyData(), *response)
	return mem.NewBuffer(response, responses), nil
}

// responses are the buffers that responses are written to. Grpc gives each back when it has been sent.
var responses = new(responsePool)

type responsePool struct{ sync.Pool }

const (
	// An allowance has less than 1 KiB with the usual headers, and grpc reuses no buffers that are not larger than that.
	responseRoom = 2 << 10
	// What a rare large one took is not kept.
	maxResponseRoom = 16 << 10
)

// Get implements mem.BufferPool.
func (p *responsePool) Get(int) *[]byte {
	if response, ok := p.Pool.Get().(*[]byte); ok {
		return response
	}
	return new(make([]byte, 0, responseRoom))
}

// Put implements mem.BufferPool.
func (p *responsePool) Put(response *[]byte) {
	if cap(*response) <= maxResponseRoom {
		*response = (*response)[:0]
		p.Pool.Put(response)
	}
}
