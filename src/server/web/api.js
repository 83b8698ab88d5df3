// Talking to the server: JSON in, JSON or a stream of events out, and errors as sentences.
import { settings } from "./store.js";

export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;  // 0: the server was not reached
    this.retryAfter = retryAfter;
  }
}

async function errorOf(response) {
  let message = `The server answered with status ${response.status}.`;
  try {
    const body = await response.json();
    message = body.error?.message || body.message || message;
  } catch { /* not JSON: what a proxy says is of no use to anybody */ }
  const retry = Number(response.headers.get("Retry-After")) || null;
  if (response.status === 401) message = "This server asks for an API key; give yours under Settings. (" + message + ")";
  if (response.status === 429) message = "You have reached a limit of this server. " + message;
  return new ApiError(response.status, message, retry);
}

async function request(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (settings.apiKey) headers.Authorization = "Bearer " + settings.apiKey;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, cache: "no-store",
                                   body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached. It may be restarting.");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

export const getJson = async (path, options) => (await request(path, options)).json();
export const postJson = async (path, body, options) => (await request(path, { ...options, method: "POST", body })).json();

// Server-sent events as {event, data}; ends with the stream. Throws ApiError if it breaks off.
export async function* events(path, options) {
  const response = await request(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", event = "message", data = [];
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const lines = text.split(/\r\n|\n|\r(?!$)/);
      text = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event, data: data.join("\n") };
          event = "message";
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (line.startsWith("event:")) {
          event = line.slice(6).trim();
        }
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The connection to the server broke off.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
