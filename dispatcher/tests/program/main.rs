//! Tests of the dispatcher's program, which runs as a process. They are one test program: five would each compile the
//! HTTP client and the stub replica again.

mod api_server;
mod connections;
mod discovery;
mod faults;
mod hedge;
mod inference_protocol;
mod kubernetes;
mod logs;
mod membership;
mod openapi;
mod process;
mod protocols;
mod requests;
mod shared_replica;
mod sharing;
mod spans;
mod steady;
mod stopped;
mod stub;
mod tenants;
mod upstream;
#[cfg(target_os = "linux")]
mod usage;
