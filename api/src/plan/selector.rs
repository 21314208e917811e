//! `nodeSelector`, of a plan and of a wave: a label selector that can be read.

use schemars::Schema;
use serde_json::{Value, json};

/// Adds to the schema of a label selector what Kubernetes itself asks of one. Without it a plan whose operator is
/// misspelt would be stored, select nothing, and leave its nodes to the next plan that selects them.
pub fn readable(schema: &mut Schema) {
    let Some(expressions) = schema.pointer_mut("/properties/matchExpressions") else {
        return;
    };
    expressions["maxItems"] = json!(100);
    let one = &mut expressions["items"];
    one["properties"]["operator"]["enum"] = json!(["In", "NotIn", "Exists", "DoesNotExist"]);
    one["x-kubernetes-validations"] = rule();
}

fn rule() -> Value {
    json!([{
        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
        "messageExpression": "(self.operator in ['In', 'NotIn']) ? self.operator + ' needs at least one value' : self.operator + ' takes no values'",
        "message": "In and NotIn need at least one value, Exists and DoesNotExist take none",
        "reason": "FieldValueInvalid",
        "fieldPath": ".values",
    }])
}
