{{- define "tidemark.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "tidemark.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "tidemark.labels" -}}
{{ include "tidemark.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "tidemark.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- $digest := .Values.image.digest -}}
{{ .Values.image.repository }}:{{ $tag }}{{ with $digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* Settings by name as environment variables: {a: {b: 1}} is TIDEMARK_A__B=1. */}}
{{- define "tidemark.settings" -}}
{{- range $name, $value := .settings }}
{{- $variable := printf "%s%s" $.prefix (upper $name) }}
{{- if kindIs "map" $value }}
{{- include "tidemark.settings" (dict "prefix" (printf "%s__" $variable) "settings" $value) }}
{{- else }}
- name: {{ $variable }}
  value: {{ include "tidemark.text" $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A number is a float here: a large one would come out as 1e+06. */}}
{{- define "tidemark.text" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else if kindIs "slice" . }}{{ toJson .
}}{{- else if kindIs "invalid" . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/* A quantity of memory in bytes. */}}
{{- define "tidemark.bytes" -}}
{{- $factor := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 -}}
{{- $unit := regexFind "[A-Za-z]*$" (toString .) -}}
{{- mulf (trimSuffix $unit (toString .) | float64) (get $factor $unit | default 1099511627776) | int64 -}}
{{- end -}}

{{- define "tidemark.kafkaEnv" -}}
{{- $kafka := .Values.kafka -}}
- name: TIDEMARK_KAFKA__BOOTSTRAP_SERVERS
  value: {{ $kafka.bootstrapServers | quote }}
- name: TIDEMARK_KAFKA__TOPIC
  value: {{ $kafka.topic | quote }}
- name: TIDEMARK_KAFKA__TOPIC_EPOCH
  value: {{ $kafka.topicEpoch | quote }}
- name: TIDEMARK_KAFKA__SECURITY_PROTOCOL
  value: {{ $kafka.securityProtocol }}
{{- if hasPrefix "SASL" $kafka.securityProtocol }}
- name: TIDEMARK_KAFKA__SASL_MECHANISM
  value: {{ $kafka.sasl.mechanism }}
- name: TIDEMARK_KAFKA__SASL_USERNAME
  valueFrom:
    secretKeyRef: {name: {{ $kafka.sasl.existingSecret }}, key: {{ $kafka.sasl.usernameKey }}}
- name: TIDEMARK_KAFKA__SASL_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $kafka.sasl.existingSecret }}, key: {{ $kafka.sasl.passwordKey }}}
{{- end }}
{{- with $kafka.tls.existingSecret }}
- name: TIDEMARK_KAFKA__SSL_CA_FILE
  value: /etc/tidemark/kafka-tls/{{ $kafka.tls.caKey }}
{{- if $kafka.tls.certKey }}
- name: TIDEMARK_KAFKA__SSL_CERT_FILE
  value: /etc/tidemark/kafka-tls/{{ $kafka.tls.certKey }}
- name: TIDEMARK_KAFKA__SSL_KEY_FILE
  value: /etc/tidemark/kafka-tls/{{ $kafka.tls.keyKey }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "tidemark.kafkaMounts" -}}
{{- if .Values.kafka.tls.existingSecret }}
- {name: kafka-tls, mountPath: /etc/tidemark/kafka-tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "tidemark.kafkaVolumes" -}}
{{- with .Values.kafka.tls.existingSecret }}
- name: kafka-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "tidemark.postgresMounts" -}}
- {name: shard-map, mountPath: /etc/tidemark/shards, readOnly: true}
- {name: dsns, mountPath: /etc/tidemark/dsns, readOnly: true}
{{- if .Values.postgres.tls.existingSecret }}
- {name: postgres-tls, mountPath: /etc/tidemark/postgres-tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "tidemark.postgresVolumes" -}}
- name: shard-map
  configMap: {name: {{ .shardMap }}}
- name: dsns
  secret: {secretName: {{ .root.Values.postgres.existingSecret }}, defaultMode: 0440}
{{- with .root.Values.postgres.tls.existingSecret }}
- name: postgres-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Every shard with its partitions, as the services read it. */}}
{{- define "tidemark.shardMap" -}}
{{- $count := len .Values.shards -}}
{{- $entries := list -}}
{{- range $i, $shard := .Values.shards -}}
{{- $size := div 720 $count -}}
{{- $equal := list (mul $i $size) (sub (mul (add $i 1) $size) 1) -}}
{{- $entries = append $entries (dict
  "name" $shard.name
  "partitions" ($shard.partitions | default $equal)
  "dsn_file" (printf "/etc/tidemark/dsns/%s" $shard.name)
  "connections_max" (int64 $shard.connectionsMax)
) -}}
{{- end -}}
{{- dict "version" 1 "shards" $entries | toPrettyJson -}}
{{- end -}}

{{- define "tidemark.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tidemark.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What every pod of a service has in common, from the image's secrets to where it may run. */}}
{{- define "tidemark.podDefaults" -}}
{{- $service := index .root.Values .component -}}
securityContext:
  {{- include "tidemark.podSecurityContext" .root | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
enableServiceLinks: false
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tidemark.selector" $ | nindent 8 }}
  {{- end }}
{{- with $service.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $service.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $service.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $service.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* What customers may call. Not /metrics, which tells how much they send, and no probes. */}}
{{- define "tidemark.publicPaths" -}}
[/v1, /api/v1, /apps, /problems, /docs, /openapi.json]
{{- end -}}

{{- define "tidemark.group" -}}
{{ (.Values.consumer.settings.group).id | default "tidemark-consumer" }}
{{- end -}}

{{/* A job that runs before the release's own objects are there, so it may use none of them. */}}
{{- define "tidemark.jobPod" -}}
restartPolicy: Never
{{ include "tidemark.smallPod" . }}
{{- end -}}

{{/* A pod that is neither scaled nor spread, and needs no account. */}}
{{- define "tidemark.smallPod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "tidemark.podSecurityContext" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "tidemark.egressTo" -}}
- ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "tidemark.egressDns" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end -}}
