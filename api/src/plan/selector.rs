//! `nodeSelector`, of a plan and of a wave: a label selector that can be read.

use schemars::Schema;
use serde_json::{Value, json};

use super::topology::LABEL_KEY;

/// What the value of a label looks like.
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$";

/// Adds to the schema of a label selector what Kubernetes itself asks of the expressions of its own. Without it a plan whose
/// operator is misspelt would be stored, select nothing, and leave its nodes to the next plan that selects them; and one
/// that is to leave out nodes by a label that nothing can have would select them all.
pub fn readable(schema: &mut Schema) {
    let Some(expressions) = schema.pointer_mut("/properties/matchExpressions") else {
        return;
    };
    expressions["maxItems"] = json!(100);
    let one = &mut expressions["items"];
    one["x-kubernetes-validations"] = values_follow_operator();
    let fields = &mut one["properties"];
    fields["operator"]["enum"] = json!(["In", "NotIn", "Exists", "DoesNotExist"]);
    fields["key"]["maxLength"] = json!(317);
    fields["key"]["x-kubernetes-validations"] = json!([{
        "rule": LABEL_KEY,
        "message": "must be the name of a label, such as topology.kubernetes.io/zone",
        "reason": "FieldValueInvalid",
    }]);
    fields["values"]["items"]["pattern"] = json!(LABEL_VALUE);
}

fn values_follow_operator() -> Value {
    json!([{
        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
        "messageExpression": "(self.operator in ['In', 'NotIn']) ? self.operator + ' needs at least one value' : self.operator + ' takes no values'",
        "message": "In and NotIn need at least one value, Exists and DoesNotExist take none",
        "reason": "FieldValueInvalid",
        "fieldPath": ".values",
    }])
}
