//! Names of fields and parameters. One that is a known name but for its case, such as `ifversion`,
//! is a mistake that must not go by in silence: the condition would be left out. All other unknown
//! names are ignored, as clients of other versions may send them.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor,
};

/// A `T` in which no name is a known one in another case. Costs a few comparisons a name.
pub(crate) struct Named<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Named<T>, D::Error> {
        T::deserialize(Checked(deserializer)).map(Named)
    }
}

/// What a struct's names, and those of structs within lists, pass through.
struct Checked<T>(T);

/// The same below a struct whose fields are these.
struct Fields<T> {
    inner: T,
    known: &'static [&'static str],
}

/// The known name that this is in another case.
fn meant(name: &str, known: &'static [&'static str]) -> Option<&'static str> {
    if known.contains(&name) {
        return None;
    }
    let same = |known: &&&str| known.eq_ignore_ascii_case(name);
    known.iter().find(same).copied()
}

fn check<E: Error>(name: &str, known: &'static [&'static str]) -> Result<(), E> {
    match meant(name, known) {
        None => Ok(()),
        Some(meant) => Err(E::custom(format_args!(
            "{name}: there is no such name: write {meant}"
        ))),
    }
}

macro_rules! pass {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Checked<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = Fields {
            inner: visitor,
            known: fields,
        };
        self.0.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_seq(Checked(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // The parser's own types, such as raw values, are called by names of this form.
        match name.starts_with('$') {
            true => self.0.deserialize_newtype_struct(name, visitor),
            false => self.0.deserialize_newtype_struct(name, Checked(visitor)),
        }
    }

    pass! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32
        deserialize_i64 deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_option deserialize_unit deserialize_map deserialize_identifier
        deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(length, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, length, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident: $of:ty)*) => {
        $(fn $method<E: Error>(self, value: $of) -> Result<V::Value, E> {
            self.0.$method(value)
        })*
    };
}

/// A list, or what a newtype holds.
impl<'de, V: Visitor<'de>> Visitor<'de> for Checked<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Checked(list))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Checked(inner))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(map)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(data)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(inner)
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.0.visit_borrowed_str(value)
    }

    visit! {
        visit_bool: bool
        visit_i64: i64
        visit_u64: u64
        visit_f64: f64
        visit_str: &str
        visit_string: String
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Checked<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Checked(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Checked<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Checked(deserializer))
    }
}

/// A struct, which comes as a map. As a list its fields have no names.
impl<'de, V: Visitor<'de>> Visitor<'de> for Fields<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let known = self.known;
        self.inner.visit_map(Fields { inner: map, known })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(list)
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let known = self.known;
        self.inner.next_key_seed(Fields { inner: seed, known })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Checked(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Fields<K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K::Value, D::Error> {
        let known = self.known;
        let inner = deserializer;
        self.inner.deserialize(Name(Fields { inner, known }))
    }
}

/// The deserializer of a field's name.
struct Name<D>(Fields<D>);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Name<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Fields { inner, known } = self.0;
        let visitor = Name(Fields {
            inner: visitor,
            known,
        });
        inner.deserialize_identifier(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Name<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.inner.expecting(f)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<V::Value, E> {
        check(name, self.0.known)?;
        self.0.inner.visit_str(name)
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<V::Value, E> {
        check(name, self.0.known)?;
        self.0.inner.visit_borrowed_str(name)
    }

    fn visit_string<E: Error>(self, name: String) -> Result<V::Value, E> {
        check(&name, self.0.known)?;
        self.0.inner.visit_string(name)
    }

    fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<V::Value, E> {
        self.0.inner.visit_bytes(name)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Query {
        #[serde(default)]
        wait: bool,
        timeout_ms: Option<u64>,
    }

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Item<'a> {
        #[serde(borrow)]
        client_id: Cow<'a, str>,
        #[serde(borrow, default)]
        data: Option<&'a RawValue>,
        #[serde(default)]
        if_version: Option<u64>,
        #[serde(default)]
        inner: Option<Box<Query>>,
        #[serde(default)]
        queries: Vec<Query>,
    }

    #[derive(serde::Deserialize)]
    struct List<'a>(#[serde(borrow)] Vec<Item<'a>>);

    fn item(json: &str) -> Result<Item<'_>, String> {
        let named = serde_json::from_str::<Named<Item<'_>>>(json);
        named
            .map(|named| named.0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_known_name_in_another_case_is_refused_with_the_right_one() {
        for (json, right) in [
            (r#"{"clientId":"a","ifversion":1}"#, "ifVersion"),
            (r#"{"clientId":"a","IFVERSION":1}"#, "ifVersion"),
            (r#"{"ClientID":"a","clientId":"b"}"#, "clientId"),
            (r#"{"clientId":"a","Data":1}"#, "data"),
            (r#"{"clientId":"a","d\u0041ta":1}"#, "data"),
            (r#"{"clientId":"a","queries":[{"WAIT":true}]}"#, "wait"),
        ] {
            let error = item(json).err().unwrap();
            assert!(error.contains(&format!("write {right}")), "{json}: {error}");
        }
        let lists = r#"[{"clientId":"a"},{"clientId":"a","ifversion":1}]"#;
        let list = serde_json::from_str::<Named<List<'_>>>(lists);
        assert!(list.err().unwrap().to_string().contains("write ifVersion"));
    }

    #[test]
    fn other_unknown_names_are_ignored_and_data_is_nobodys_business() {
        let json =
            r#"{"extra":{"CLIENTID":1},"clientId":"a","data":{"ClientId":[1e400]},"if_version":9}"#;
        let found = item(json).unwrap();
        assert_eq!(found.client_id, "a");
        assert_eq!(found.data.unwrap().get(), r#"{"ClientId":[1e400]}"#);
        assert_eq!(
            (found.if_version, found.inner, found.queries.len()),
            (None, None, 0)
        );
        let list = r#"[{"clientId":"a","more":1},{"clientId":"b"}]"#;
        let Named(List(items)) = serde_json::from_str(list).unwrap();
        assert_eq!(items.len(), 2);
        assert!(item("[\"a\"]").is_ok(), "a list has no names");
        assert!(item("7").is_err() && item("{}").is_err());
    }

    #[test]
    fn parameters_have_names_too() {
        let query = |text: &str| serde_urlencoded_like(text).map(|named| named.0);
        let right = Query {
            wait: true,
            timeout_ms: Some(7),
        };
        assert_eq!(query("wait=true&timeoutMs=7&other=1").unwrap(), right);
        for (text, name) in [("WAIT=true", "wait"), ("a=1&timeoutms=7", "timeoutMs")] {
            let error = query(text).unwrap_err();
            assert!(error.contains(&format!("write {name}")), "{error}");
        }
    }

    /// As the extractor of parameters reads them.
    fn serde_urlencoded_like(text: &str) -> Result<Named<Query>, String> {
        let uri: http::Uri = format!("/?{text}").parse().unwrap();
        let query = axum::extract::Query::try_from_uri(&uri);
        query
            .map(|query| query.0)
            .map_err(|error| super::super::root(&error).to_string())
    }

    impl fmt::Debug for Named<Query> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }
}
