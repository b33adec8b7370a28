//! Sends a task and waits for its result, and shows what the gateway says to a wrong
//! request. The argument is the gateway's address; default: localhost:50051.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::{Code, Request, Status, transport::Endpoint};
use tonic_types::StatusExt;

mod pb {
    tonic::include_proto!("penstock.v1");
}

use pb::{
    GetStateRequest, SendTaskRequest, Task, TaskStatus, Value,
    gateway_service_client::GatewayServiceClient, value::Kind,
};

type Client = GatewayServiceClient<tonic::transport::Channel>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("localhost:50051".into());
    let channel = Endpoint::new(format!("http://{address}"))?.connect().await?;
    let mut client = GatewayServiceClient::new(channel);

    let task = Task {
        name: "add".into(),
        args: vec![int(1), int(1)],
        ..Default::default()
    };
    // Two runs of this program are two calls: each has an id of its own.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let request_id = format!("rust-example-{now}");
    let task_id = send(&mut client, task, &request_id).await?;
    let results = result(&mut client, &task_id).await?;
    match &results[..] {
        [Value { kind: Some(Kind::IntValue(sum)), .. }] => println!("1 + 1 = {sum}"),
        other => println!("1 + 1 is no whole number: {other:?}"),
    }

    let nameless = Task::default();
    if let Err(status) = send(&mut client, nameless, "").await {
        let details = status.get_error_details();
        let reason = details.error_info().map_or("", |info| &info.reason);
        println!("{:?} {reason}: {}", status.code(), status.message());
        for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
            println!("  {} {}", violation.field, violation.description);
        }
    }
    Ok(())
}

fn int(value: i64) -> Value {
    Value { kind: Some(Kind::IntValue(value)), ..Default::default() }
}

/// Sends a task and returns its id. A call with a request id is repeated while no
/// gateway takes it: however often it arrives, it is carried out once.
async fn send(client: &mut Client, task: Task, request_id: &str) -> Result<String, Status> {
    let message = SendTaskRequest { task: Some(task), request_id: request_id.into() };
    let mut pause = Duration::from_millis(50);
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(Duration::from_secs(10));
        match client.send_task(request).await {
            Ok(response) => return Ok(response.into_inner().task_id),
            Err(status)
                if status.code() == Code::Unavailable
                    && !request_id.is_empty()
                    && pause < Duration::from_secs(10) =>
            {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(status) => return Err(status),
        }
    }
}

/// Waits for a task to end and returns its results. One call waits for 30 s at most; a
/// gateway that stops ends a wait early.
async fn result(client: &mut Client, task_id: &str) -> Result<Vec<Value>, Status> {
    loop {
        let mut request = Request::new(GetStateRequest {
            task_id: task_id.into(),
            wait: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        });
        request.set_timeout(Duration::from_secs(40));
        let state = client.get_state(request).await?.into_inner().state.unwrap_or_default();
        match state.status() {
            TaskStatus::Success => return Ok(state.results),
            TaskStatus::Failure | TaskStatus::Cancelled => {
                return Err(Status::aborted(state.error.unwrap_or_default().message));
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
