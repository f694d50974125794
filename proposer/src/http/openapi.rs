//! `/openapi.json`: what each role answers, from the types that do it. The cluster's own traffic,
//! below `/paxos/`, is no part of it.

use paxos::ids::Role;
use serde_json::Value as Json;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::{Object, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{self, Content, InfoBuilder, Ref, RefOr};
use utoipa::{OpenApi, ToSchema};

use super::proposer::MAX_BATCH;
use crate::http;
use api::problem::Problem;

/// What every role answers.
#[derive(OpenApi)]
#[openapi(
    paths(
        http::status,
        http::health,
        http::ready,
        http::logs,
        http::important_logs,
        http::metrics,
        http::openapi
    ),
    components(schemas(Problem))
)]
struct Common;

/// The document of a role.
pub(super) fn document(role: Role) -> Json {
    let own = match role {
        Role::Proposer => http::proposer::Api::openapi(),
        Role::Acceptor => http::acceptor::Api::openapi(),
        Role::Learner => http::learner::Api::openapi(),
        Role::Store => http::store::Api::openapi(),
    };
    let mut document = Common::openapi().merge_from(own);
    document.info = InfoBuilder::new()
        .title(format!("Cluster Sync {role}"))
        .description(Some(
            "Errors are application/problem+json, and their detail says what to do. Any content \
             type of a body is taken for JSON.",
        ))
        .license(Some(openapi::License::new("Apache-2.0")))
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            refusals(operation);
        }
    }
    let schemas = document.components.as_mut().map(|c| &mut c.schemas);
    for (name, schema) in schemas.into_iter().flatten() {
        let RefOr::T(schema) = schema else { continue };
        match (name.as_str(), &mut *schema) {
            ("Request", Schema::Object(request)) => *schema = by_operation(request),
            ("Batch", Schema::Array(batch)) => batch.max_items = Some(MAX_BATCH),
            _ => {}
        }
    }
    // Texts and numbers under texts: nothing in it can fail.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    name_formats(&mut document);
    document
}

/// utoipa 6.0 misspells the formats of unsigned numbers; the OpenAPI registry has `uint64` and the
/// like.
fn name_formats(json: &mut Json) {
    match json {
        Json::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Json::String(format) if name == "format" && format.starts_with("u-int") => {
                        *format = format.replace("u-int", "uint");
                    }
                    value => name_formats(value),
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(name_formats),
        _ => {}
    }
}

/// Adds the refusals that follow from an operation's input, and gives every error that says nothing
/// else the form of a problem.
fn refusals(operation: &mut Operation) {
    // By default it is the name of a module, which says nothing to a client.
    operation.tags = None;
    let body = operation.request_body.is_some();
    let input = body || operation.parameters.is_some();
    let responses = &mut operation.responses.responses;
    let mut add = |status: &str, description: &str| {
        let response = || RefOr::T(Response::new(description));
        responses.entry(status.to_owned()).or_insert_with(response);
    };
    if input {
        add("400", "A field or parameter is wrong; the detail names it");
    }
    if body {
        add("408", "The body did not arrive in time");
        add("413", "The body is over 1 MiB");
    }
    for (status, response) in responses {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
            && response.content.is_empty()
        {
            let problem = Ref::from_schema_name(Problem::name());
            let content = Content::new(Some(problem));
            let problem = "application/problem+json".to_owned();
            response.content.insert(problem, content.into());
        }
    }
    if input {
        // From below the routes, so without a problem.
        let too_long = Response::new("The request line and headers are over 16 KiB");
        let responses = &mut operation.responses.responses;
        responses.insert("431".to_owned(), RefOr::T(too_long));
    }
}

/// A request says different things for each operation: WRITE needs data, and READ compares nothing.
fn by_operation(request: &Object) -> Schema {
    let only = |operation: &str| {
        let mut request = request.clone();
        let name = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some([operation]));
        let properties = &mut request.properties;
        properties.insert("operation".to_owned(), name.into());
        request
    };
    let mut write = only("WRITE");
    write.required.push("data".to_owned());
    let mut read = only("READ");
    let nothing = ObjectBuilder::new().schema_type(Type::Null);
    let properties = &mut read.properties;
    properties.insert("ifVersion".to_owned(), nothing.into());
    OneOfBuilder::new()
        .item(Schema::Object(write))
        .item(Schema::Object(only("DELETE")))
        .item(Schema::Object(read))
        .into()
}
