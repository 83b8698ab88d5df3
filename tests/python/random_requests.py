"""Random valid requests of every kind for the tiny checkpoint llama-chat, and what of their answers may not depend on
what else the server does."""
import json
import re

WORDS = "time year people way day thing man world life hand part child eye woman place work week case point home".split()
VOCABULARY = 320


def text(random, low=1, high=40):
    return " ".join(random.choice(WORDS) for _ in range(random.randint(low, high)))


def ids(random, low=1, high=150):
    return [random.randrange(3, VOCABULARY) for _ in range(random.randint(low, high))]


def sampling(random):
    body = {}
    if random.random() < 0.4:
        body["temperature"] = 0
    else:
        body["temperature"] = random.choice([0.5, 1, 1.5])
        body["seed"] = random.randrange(1000)
        if random.random() < 0.3:
            body["n"] = random.randint(2, 4)
    choices = {"top_k": random.choice([-1, 5, 50]), "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2,
               "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {str(random.randrange(3, VOCABULARY)): 5},
               "stop": random.choice([["e", " the"], "q"]), "stop_token_ids": [random.randrange(VOCABULARY)],
               "ignore_eos": True, "include_stop_str_in_output": True, "min_tokens": 2, "return_token_ids": True,
               "skip_special_tokens": False, "return_tokens_as_token_ids": True, "priority": random.randint(-2, 2),
               "cache_salt": random.choice(["a", "b"]), "user": "someone",
               "prompt_logprobs": random.randint(0, 2)}
    for name, value in choices.items():
        if random.random() < 0.2:
            body[name] = value
    return body


def request(random, max_tokens=40):
    """(path, body)"""
    body = sampling(random)
    limit = random.randint(2, max_tokens)
    if random.random() < 0.5:
        path = "/v1/chat/completions"
        messages = [{"role": "user", "content": text(random)}]
        if random.random() < 0.3:
            messages = [{"role": "system", "content": text(random, high=8)}, *messages,
                        {"role": "assistant", "content": text(random)}, {"role": "user", "content": text(random)}]
        body |= {"messages": messages, "max_completion_tokens": limit}
        if random.random() < 0.3:
            body |= {"logprobs": True, "top_logprobs": random.randint(0, 3)}
    else:
        path = "/v1/completions"
        prompts = [lambda: text(random), lambda: ids(random), lambda: [text(random), text(random)],
                   lambda: [ids(random), ids(random)]]
        body |= {"prompt": random.choice(prompts)(), "max_tokens": limit}
        if random.random() < 0.3:
            body["logprobs"] = random.randint(0, 3)
        if random.random() < 0.2:
            body["echo"] = True
            if random.random() < 0.3 and "min_tokens" not in body:
                body["max_tokens"] = 0
    if random.random() < 0.5:
        body["stream"] = True
        if random.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
    return path, body


VARYING = re.compile(rb'"(id|created|cached_tokens)":("[^"]*"|\d+)')


def events(data):
    """The data of each event of a stream that ended as it should."""
    assert data.endswith(b"data: [DONE]\n\n"), data[-200:]
    return [event.removeprefix(b"data: ") for event in data.split(b"\n\n")[:-2]]


def comparable(data, streamed):
    """The bytes of an answer without its id, its time and the hits of the cache. Events of different choices may come in
    another order."""
    data = VARYING.sub(rb'"\1":0', data)
    if not streamed:
        return data

    def index(event):
        choices = json.loads(event)["choices"]
        return choices[0]["index"] if choices else 1 << 30

    return b"\n".join(sorted(events(data), key=index))
