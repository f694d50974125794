{{/* Both names leave room for a suffix within the 63 characters of a label or a host name. */}}
{{- define "paxos-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 55 | trimSuffix "-" }}
{{- end }}

{{/* The release's name, with the chart's unless it is in there already. */}}
{{- define "paxos-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 55 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 55 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 55 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* A Deployment's selector cannot change: nothing that an upgrade changes belongs here. */}}
{{- define "paxos-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "paxos-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "paxos-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "paxos-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: cluster-sync
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "paxos-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "paxos-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "paxos-operator.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* The PaxosCluster of `helm test`; its name is short and begins with a letter, as a cluster's must. */}}
{{- define "paxos-operator.testCluster" -}}
{{- printf "test-%s" (include "paxos-operator.fullname" .) | trunc 43 | trimSuffix "-" }}
{{- end }}

{{/* Where it is made: where the operator looks. */}}
{{- define "paxos-operator.testNamespace" -}}
{{- if .Values.watchNamespaces }}{{ first .Values.watchNamespaces }}{{ else }}{{ .Release.Namespace }}{{ end }}
{{- end }}

{{/* The times of the election, where they differ from the operator's own. */}}
{{- define "paxos-operator.leaseTimes" -}}
{{- $lease := int .Values.leaderElection.leaseDurationSeconds }}
{{- $deadline := int .Values.leaderElection.renewDeadlineSeconds }}
{{- $retry := int .Values.leaderElection.retryPeriodSeconds }}
{{- if not (and (lt $deadline $lease) (le (mul 2 $retry) $deadline)) }}
{{- fail "leaderElection: renewDeadlineSeconds must be less than leaseDurationSeconds, or two operators would work at once; and retryPeriodSeconds at most half of renewDeadlineSeconds" }}
{{- end }}
{{- if ne $lease 15 }}
- --lease-duration-s={{ $lease }}
{{- end }}
{{- if ne $deadline 10 }}
- --lease-renew-deadline-s={{ $deadline }}
{{- end }}
{{- if ne $retry 2 }}
- --lease-retry-period-s={{ $retry }}
{{- end }}
{{- end }}

{{/* What clusters get whose spec says nothing, as JSON; empty if nothing is set. An empty security context is set. */}}
{{- define "paxos-operator.clusterDefaults" -}}
{{- $set := dict }}
{{- range $key, $value := .Values.clusterDefaults }}
{{- $context := has $key (list "podSecurityContext" "securityContext") }}
{{- if ternary (kindIs "map" $value) (not (empty $value)) $context }}
{{- $_ := set $set $key $value }}
{{- end }}
{{- end }}
{{- if $set }}
{{- toJson $set }}
{{- end }}
{{- end }}
