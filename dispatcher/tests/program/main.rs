//! Tests of the dispatcher's program, which runs as a process. They are one test program: five would each compile the
//! HTTP client and the stub replica again.

mod faults;
mod kubernetes;
mod openapi;
mod process;
mod protocols;
mod requests;
mod steady;
mod stub;
mod tenants;
