//! Makes the messages and the client of proto/ with protoc, which must be on the path.
//! PENSTOCK_PROTO says where proto/ is; default: that of this repository.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-env-changed=PENSTOCK_PROTO");
    let proto = std::env::var("PENSTOCK_PROTO").unwrap_or("../../proto".into());
    tonic_prost_build::configure()
        .build_server(false)
        // The messages of google/rpc are those of tonic-types.
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_protos(&[format!("{proto}/penstock/v1/gateway.proto")], &[proto])?;
    Ok(())
}
